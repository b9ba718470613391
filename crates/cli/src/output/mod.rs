//! What `defer` prints and writes: answers, tables, NDJSON, `.npz` files, progress.
//!
//! Results go to stdout, everything else to stderr, so that a pipe sees results only.

pub(crate) mod answer;
pub(crate) mod difference;
pub(crate) mod files;
pub(crate) mod json;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod switches;
pub(crate) mod table;
pub(crate) mod trace;
pub(crate) mod trial;

use std::io::{self, Write};

use anyhow::Result;

/// Text from elsewhere without control characters, which could rule a terminal, and without those that turn the
/// direction of what follows or break its line, with which one name could look like another.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_control(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn is_control(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Prints one line of a result.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Prints one JSON document on a line of its own.
pub(crate) fn json_line(value: &impl serde::Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    Ok(out.write_all(b"\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_rules_the_terminal_or_turns_the_text() {
        for c in "\u{1b}\n\r\u{0}\u{7f}\u{9b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\
                  \u{202e}\u{2066}\u{2067}\u{2068}\u{2069}"
            .chars()
        {
            assert_eq!(printable(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        // Letters of scripts that run from right to left are themselves.
        for text in ["a b", "\u{5e9}\u{5dc}", "\u{200d}\u{202f}\u{2065}"] {
            assert_eq!(printable(text), text);
        }
    }
}
