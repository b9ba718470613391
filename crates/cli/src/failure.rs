//! How a command fails: what happened, why, and what to do now.
//!
//! Commands return `anyhow` errors; [`Hint`] adds advice where it is known best, at the place that fails. Only
//! `main` prints.

use std::fmt;

use anyhow::{Error, Result};

use crate::output::printable;

/// The exit code of a run that failed.
const FAILED: u8 = 1;

/// The exit code after Ctrl-C, as shells give it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// The user pressed Ctrl-C; everything was wound down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted;

/// An error together with advice.
#[derive(Debug)]
struct Advised {
    error: Error,
    advice: String,
}

/// Adds advice to an error.
pub(crate) trait Hint<T> {
    /// Says what to do about it: a sentence without a full stop.
    fn hint(self, advice: impl Into<String>) -> Result<T>;

    /// The same, where what to do is only known once it has failed.
    fn hint_with(self, advice: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Hint<T> for Result<T, E> {
    fn hint(self, advice: impl Into<String>) -> Result<T> {
        self.hint_with(|| advice.into())
    }

    fn hint_with(self, advice: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let error: Error = error.into();
            // Advice given closer to the fault is better advice.
            match error.chain().any(|cause| cause.is::<Advised>()) {
                true => error,
                false => Error::new(Advised { error, advice: advice() }),
            }
        })
    }
}

/// The lines that tell of `error`, and the exit code.
pub(crate) fn describe(error: &Error) -> (String, u8) {
    if error.chain().any(|e| e.is::<Interrupted>()) {
        return ("interrupted".to_owned(), INTERRUPTED);
    }
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain() {
        // Nodes' messages and names of their choice are in it.
        let text: Vec<String> = cause.to_string().lines().map(printable).collect();
        let text = text.join("\n");
        // Many errors repeat their source in their own text; say everything once.
        if !causes.iter().any(|said| said.contains(&text)) {
            causes.push(text);
        }
    }
    let mut text = format!("error: {}", causes.join("\n  because: "));
    if let Some(advice) = error.chain().find_map(advice) {
        text += &format!("\nhint: {advice}");
    }
    (text, FAILED)
}

fn advice(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(advised) = cause.downcast_ref::<Advised>() {
        return Some(advised.advice.clone());
    }
    let io = cause.downcast_ref::<std::io::Error>()?;
    let advice = match io.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens there: choose another --listen address",
        std::io::ErrorKind::PermissionDenied => "check who owns the file or folder, and its permissions",
        std::io::ErrorKind::StorageFull => "free some space, or name another folder with --cache",
        _ => return None,
    };
    Some(advice.to_owned())
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The error itself, not its source: what looks for a kind of error must find it under the advice.
        Some(self.error.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn causes_and_advice_are_said_once() {
        let check =
            |error: Error, text: &str, code: u8| assert_eq!(describe(&error), (text.to_owned(), code));
        check(anyhow!("it broke"), "error: it broke", 1);
        let advised = Err::<(), _>(anyhow!("no room")).hint("make room").context("cannot write `x`");
        check(advised.unwrap_err(), "error: cannot write `x`\n  because: no room\nhint: make room", 1);
        let twice = Err::<(), _>(anyhow!("no room")).hint("make room").hint("think").unwrap_err();
        check(twice, "error: no room\nhint: make room", 1);
        let repeated = Err::<(), _>(anyhow!("no room")).context("cannot write: no room").unwrap_err();
        check(repeated, "error: cannot write: no room", 1);
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let closed = Err::<(), _>(closed).hint("read on").unwrap_err();
        assert!(closed.chain().any(|e| e.is::<std::io::Error>()), "advice hides the error: {closed:?}");
        check(anyhow!("node `a\x1b[2J\r`\nleft"), "error: node `a\u{fffd}[2J\u{fffd}`\nleft", 1);
        let interrupted = Err::<(), _>(Interrupted).context("while streaming").unwrap_err();
        check(interrupted, "interrupted", 130);
        let taken = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let (text, _) = describe(&Error::new(taken).context("cannot listen on 127.0.0.1:7400"));
        assert!(text.ends_with("choose another --listen address"), "{text}");
    }
}
