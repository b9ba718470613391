//! BLAKE3 hashes: the names of weights and models.

use std::fmt;
use std::str::FromStr;

/// A BLAKE3 hash. Written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

/// Text that is no [`struct@Hash`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hash: 64 lowercase hexadecimal digits are expected")]
pub struct ParseHashError(String);

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    /// The name of the file that holds a weight with this hash: what a stage's skeleton refers to. rten takes
    /// external data only from files whose names end like this.
    pub fn file_name(&self) -> String {
        format!("{self}.data")
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Hash, ParseHashError> {
        parse(text.as_bytes()).ok_or_else(|| ParseHashError(text.chars().take(80).collect()))
    }
}

fn parse(text: &[u8]) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 2 * hash.len() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(Hash(hash))
}

/// Uppercase is refused: a weight has one name, also as a file.
fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_unique() {
        let hash = Hash::of(b"weights");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        // The reference hash of the empty input.
        assert!(Hash::of(b"").to_string().starts_with("af1349b9f5f9a1a6a0404dea36dcc949"));
        let text = hash.to_string();
        for bad in ["", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('a', "g")] {
            assert!(bad.parse::<Hash>().is_err(), "{bad}");
        }
    }
}
