//! How far coarse codecs may move a model's outputs.

use clap::Args;
use pipeline::Limits;

/// Limits on what coarse codecs do. Measured before the first item, on the user's own.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Links")]
pub(crate) struct Agreement {
    /// Percent of top-1 answers that must stay as they are where the plan chose coarse codecs, such as u8
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value_t = 99.8)]
    pub(crate) least_agreement: f64,
    /// Percent of an output's range by which coarse codecs may change it
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value_t = 5.0)]
    pub(crate) most_error: f64,
}

impl Agreement {
    /// The same, said to the library.
    pub(crate) fn limits(&self) -> Limits {
        Limits { agreement: self.least_agreement / 100.0, error: self.most_error / 100.0 }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.trim_end_matches('%').trim().parse::<f64>().ok();
    percent
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "give 0 to 100, as in 99.8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
