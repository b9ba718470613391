//! Names of codecs for people, and their numbers on the wire.
//!
//! A name is its stages joined by `+`: `bf16+shuffle+zstd1`, `u8`, `lz4`; `raw` when no stage does anything.

use std::fmt;
use std::iter::Peekable;
use std::str::FromStr;

use super::{Codec, Entropy, Filter, Values};

/// A name that no codec has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no codec `{0}`; choose raw, or one or more of f16, bf16, u8 or u8-axisN, then shuffle, delta or bitmap, then lz4, joined by +"
)]
pub struct UnknownCodec(String);

const FILTERS: [(Filter, &str); 3] =
    [(Filter::Shuffle, "shuffle"), (Filter::RowDelta, "delta"), (Filter::ZeroBitmap, "bitmap")];
const ENTROPIES: [(Entropy, &str); 1] = [(Entropy::Lz4, "lz4")];

impl Codec {
    /// Bytes of [`Codec::code`].
    pub const CODE_LEN: usize = 4;

    /// Its number on the wire: values, filter, entropy, parameter of the values.
    pub fn code(self) -> [u8; Codec::CODE_LEN] {
        let (values, parameter) = match self.values {
            Values::Plain => (0, 0),
            Values::F16 => (1, 0),
            Values::Bf16 => (2, 0),
            Values::U8 => (3, 0),
            Values::U8Axis(axis) => (4, axis),
        };
        let filter = FILTERS.iter().position(|&(filter, _)| filter == self.filter).map_or(0, |i| i as u8 + 1);
        let entropy =
            ENTROPIES.iter().position(|&(entropy, _)| entropy == self.entropy).map_or(0, |i| i as u8 + 1);
        [values, filter, entropy, parameter]
    }

    /// The codec of a number on the wire, if there is one.
    pub fn from_code([values, filter, entropy, parameter]: [u8; Codec::CODE_LEN]) -> Option<Codec> {
        let values = match (values, parameter) {
            (0, 0) => Values::Plain,
            (1, 0) => Values::F16,
            (2, 0) => Values::Bf16,
            (3, 0) => Values::U8,
            (4, axis) => Values::U8Axis(axis),
            _ => return None,
        };
        let filter = match filter {
            0 => Filter::None,
            other => FILTERS.get(usize::from(other) - 1)?.0,
        };
        let entropy = match entropy {
            0 => Entropy::None,
            other => ENTROPIES.get(usize::from(other) - 1)?.0,
        };
        Some(Codec { values, filter, entropy })
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = match self.values {
            Values::Plain => None,
            Values::F16 => Some("f16".to_owned()),
            Values::Bf16 => Some("bf16".to_owned()),
            Values::U8 => Some("u8".to_owned()),
            Values::U8Axis(axis) => Some(format!("u8-axis{axis}")),
        };
        let filter = FILTERS.iter().find(|&&(filter, _)| filter == self.filter).map(|f| f.1.to_owned());
        let entropy = ENTROPIES.iter().find(|&&(entropy, _)| entropy == self.entropy).map(|e| e.1.to_owned());
        let parts: Vec<String> = [values, filter, entropy].into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "raw".to_owned() } else { parts.join("+") }.as_str())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Codec, UnknownCodec> {
        let unknown = || UnknownCodec(name.to_owned());
        if name == "raw" {
            return Ok(Codec::RAW);
        }
        let mut parts = name.split('+').peekable();
        let values = take(&mut parts, values);
        let filter = take(&mut parts, |part| Some(FILTERS.iter().find(|filter| filter.1 == part)?.0));
        let entropy = take(&mut parts, |part| Some(ENTROPIES.iter().find(|entropy| entropy.1 == part)?.0));
        match parts.next() {
            Some(_) => Err(unknown()),
            None => Ok(Codec {
                values: values.unwrap_or_default(),
                filter: filter.unwrap_or_default(),
                entropy: entropy.unwrap_or_default(),
            }),
        }
    }
}

/// The next part, if it is one of these.
fn take<'a, T>(
    parts: &mut Peekable<impl Iterator<Item = &'a str>>,
    read: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let found = read(parts.peek()?)?;
    parts.next();
    Some(found)
}

fn values(name: &str) -> Option<Values> {
    Some(match name {
        "f16" => Values::F16,
        "bf16" => Values::Bf16,
        "u8" => Values::U8,
        other => Values::U8Axis(other.strip_prefix("u8-axis")?.parse().ok()?),
    })
}
