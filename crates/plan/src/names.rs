//! Names in messages. Called by whoever says which of many devices something is about; it never prints.

use std::fmt::Display;

/// So many names are said; who has more has seen enough.
const SAID: usize = 8;

/// Names for a message: the first eight, and how many there are besides.
pub fn listed(names: impl IntoIterator<Item = impl Display>) -> String {
    let mut names = names.into_iter();
    let said: Vec<String> = names.by_ref().take(SAID).map(|name| name.to_string()).collect();
    match names.count() {
        0 => said.join(", "),
        more => format!("{} and {more} more", said.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_eight_are_said_and_the_others_counted() {
        for (count, expected) in [
            (0, ""),
            (1, "1"),
            (8, "1, 2, 3, 4, 5, 6, 7, 8"),
            (9, "1, 2, 3, 4, 5, 6, 7, 8 and 1 more"),
            (300, "1, 2, 3, 4, 5, 6, 7, 8 and 292 more"),
        ] {
            assert_eq!(listed(1..=count), expected);
        }
    }
}
