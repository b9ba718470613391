//! Progress bars on stderr, for people only: hidden when stderr is no terminal, with `--json` and with `--quiet`.

use std::fmt;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Between two redraws of a spinner.
const TICK: Duration = Duration::from_millis(120);

/// Whether bars are shown at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// On a terminal.
    Terminal,
    /// Never.
    Hidden,
}

/// A bar over `total` items.
pub(crate) fn items(total: u64, visibility: Visibility) -> ProgressBar {
    let template = "{msg:<12} {wide_bar} {human_pos}/{human_len}  {rate}{left}";
    bar(ProgressBar::new(total), template, visibility)
}

/// A bar over `total` bytes.
pub(crate) fn bytes(total: u64, visibility: Visibility) -> ProgressBar {
    let template = "{msg:<12} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}";
    bar(ProgressBar::new(total), template, visibility)
}

/// A spinner for work of unknown length, with a message that says what is waited for.
pub(crate) fn waiting(message: impl Into<String>, visibility: Visibility) -> ProgressBar {
    let spinner = bar(ProgressBar::no_length(), "{spinner} {msg}  {elapsed}", visibility);
    spinner.set_message(message.into());
    spinner.enable_steady_tick(TICK);
    spinner
}

fn bar(bar: ProgressBar, template: &str, visibility: Visibility) -> ProgressBar {
    bar.set_draw_target(match visibility {
        // Hides itself when stderr is no terminal.
        Visibility::Terminal => ProgressDrawTarget::stderr(),
        Visibility::Hidden => ProgressDrawTarget::hidden(),
    });
    let style = ProgressStyle::with_template(template).expect("the templates above are well formed");
    bar.with_style(style.with_key("rate", rate).with_key("left", left))
}

/// One digit: more of them flicker.
fn rate(state: &ProgressState, out: &mut dyn fmt::Write) {
    // A bar that cannot be written is not shown.
    let _ = write!(out, "{:.1}/s", state.per_sec());
}

/// The time left, once there is something to estimate it from.
fn left(state: &ProgressState, out: &mut dyn fmt::Write) {
    if state.pos() > 0 {
        let _ = write!(out, "  {:#} left", HumanDuration(state.eta()));
    }
}
