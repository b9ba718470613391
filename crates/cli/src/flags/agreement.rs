//! How far codecs that lose something may move a model's outputs.

use anyhow::{Result, anyhow};
use clap::Args;
use pipeline::{Accuracy, Limits};
use wire::Fidelity;

use crate::failure::Hint;

/// Limits on what codecs do. Measured before the first item, on the user's own.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Links")]
pub(crate) struct Agreement {
    /// Percent of top-1 answers that must stay as they are, tried on your inputs: where links are to use coarse codecs,
    /// such as u8, and, if this is given, halves as well [default: 99.8]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) least_agreement: Option<f64>,
    /// Percent of an output's range by which such codecs may change it [default: 5]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) most_error: Option<f64>,
}

impl Agreement {
    /// The same, said to the library.
    pub(crate) fn limits(&self) -> Limits {
        let (share, default) = (|percent: f64| percent / 100.0, Limits::default());
        Limits {
            agreement: self.least_agreement.map_or(default.agreement, share),
            error: self.most_error.map_or(default.error, share),
        }
    }

    /// Whether the user has set a limit: then halves are held to it, too.
    pub(crate) fn is_given(&self) -> bool {
        self.given().is_some()
    }

    fn given(&self) -> Option<&'static str> {
        let least = self.least_agreement.map(|_| "--least-agreement");
        least.or_else(|| self.most_error.map(|_| "--most-error"))
    }

    /// Refuses limits that nothing would be held to: where no plan file names codecs, by what `--codec` says.
    pub(crate) fn check(&self, accuracy: Accuracy) -> Result<()> {
        let Some(flag) = self.given() else { return Ok(()) };
        let why = match accuracy {
            Accuracy::Near | Accuracy::Relaxed => return Ok(()),
            _ if accuracy.fidelity() == Fidelity::Exact => "links that keep every bit move no output",
            _ => "a codec by name is used on every link, whatever it does to outputs",
        };
        Err(anyhow!("{flag} is without effect beside --codec {accuracy}: {why}")).hint(format!(
            "leave {flag} out; or let the plan choose with --codec near or relaxed, which are held to it"
        ))
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.trim_end_matches('%').trim().parse::<f64>().ok();
    percent
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "give a percentage from 0 to 100".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::describe;

    #[test]
    fn limits_that_nothing_is_held_to_are_refused() {
        let flags = |least_agreement, most_error| Agreement { least_agreement, most_error };
        for (flags, codec, refused) in [
            (flags(Some(99.0), None), "near", None),
            (flags(None, Some(1.0)), "relaxed", None),
            (flags(None, None), "exact", None),
            (flags(None, None), "u8", None),
            (
                flags(Some(99.0), None),
                "exact",
                Some("--least-agreement is without effect beside --codec exact"),
            ),
            (
                flags(None, Some(1.0)),
                "u8",
                Some("--most-error is without effect beside --codec u8: a codec by name"),
            ),
            (
                flags(None, Some(1.0)),
                "lz4",
                Some("--most-error is without effect beside --codec lz4: links that"),
            ),
        ] {
            let error = flags.check(codec.parse().unwrap()).err().map(|e| describe(&e).0);
            assert_eq!(error.is_some(), refused.is_some(), "{codec} {error:?}");
            for (error, refused) in error.iter().zip(refused) {
                assert!(error.contains(refused) && error.contains("hint: leave --"), "{error}");
            }
        }
        let limits = flags(Some(99.0), None).limits();
        assert_eq!((limits.agreement, limits.error), (0.99, Limits::default().error));
        assert_eq!(flags(None, None).limits(), Limits::default());
    }

    #[test]
    fn limits_are_percentages() {
        for (text, expected) in
            [("99.8", Some(99.8)), ("5%", Some(5.0)), ("0", Some(0.0)), ("100 %", Some(100.0))]
        {
            assert_eq!(percent(text).ok(), expected, "{text}");
        }
        for text in ["", "-1", "100.1", "NaN", "inf", "most"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
