//! Names of codecs for people, and their numbers on the wire.
//!
//! A name is its stages joined by `+`: `bf16+shuffle+zstd1`, `u8`, `lz4`; `raw` when no stage does anything. ZFP is
//! `zfp`, with `-1d` or `-2d` for another view than the tensor's own dimensions, and then `-tolP` for a tolerance of two
//! to the power P or `-rateB` for B bits a value: `zfp-2d-tol-7`. What the paper and its measurements compare has names
//! besides.

use std::fmt;
use std::iter::Peekable;
use std::str::FromStr;

use super::zfp::{LEAST_TOLERANCE, MAX_RATE};
use super::{Codec, Entropy, Filter, Values, Zfp, ZfpMode, ZfpView};

/// A name that no codec has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no codec `{0}`; choose raw, or one or more of f16, bf16, u8 or u8-axisN, then shuffle, delta or bitmap, then lz4, zstd-5 or zstd1, joined by +; or json or zfp, zfp-1d, zfp-2d, with -tolP or -rateB after it, without a filter"
)]
pub struct UnknownCodec(String);

const FILTERS: [(Filter, &str); 3] =
    [(Filter::Shuffle, "shuffle"), (Filter::RowDelta, "delta"), (Filter::ZeroBitmap, "bitmap")];
const ENTROPIES: [(Entropy, &str); 3] =
    [(Entropy::Lz4, "lz4"), (Entropy::ZstdFast, "zstd-5"), (Entropy::Zstd1, "zstd1")];

/// What comes after `zfp`, and what is added to the number of a mode.
const VIEWS: [(ZfpView, &str); 3] = [(ZfpView::Own, ""), (ZfpView::Line, "-1d"), (ZfpView::Rows, "-2d")];

/// Numbers of the modes of ZFP.
const REVERSIBLE: u8 = 16;
const TOLERANCE: u8 = 20;
const RATE: u8 = 24;

/// Other names: what DEFER sends, a tolerance that is fair to ZFP, and the paper's other baseline.
const ALIASES: [(&str, &str); 3] =
    [("defer-zfp-lz4", "zfp+lz4"), ("zfp-tol", "zfp-2d-tol-7"), ("json-lz4", "json+lz4")];

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
            Values::Json => (5, 0),
            Values::Zfp(zfp) => zfp_code(zfp),
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
            (5, 0) => Values::Json,
            (mode, parameter) => Values::Zfp(zfp_from_code(mode, parameter)?),
        };
        let filter = match filter {
            0 => Filter::None,
            other => FILTERS.get(usize::from(other) - 1)?.0,
        };
        let entropy = match entropy {
            0 => Entropy::None,
            other => ENTROPIES.get(usize::from(other) - 1)?.0,
        };
        Codec { values, filter, entropy }.possible()
    }

    /// Itself, if its filter has something to arrange.
    fn possible(self) -> Option<Codec> {
        (self.filter == Filter::None || self.values.has_elements()).then_some(self)
    }
}

/// Number and parameter of values as ZFP blocks.
fn zfp_code(zfp: Zfp) -> (u8, u8) {
    let view = VIEWS.iter().position(|&(view, _)| view == zfp.view).map_or(0, |i| i as u8);
    match zfp.mode {
        ZfpMode::Reversible => (REVERSIBLE + view, 0),
        ZfpMode::Tolerance(power) => (TOLERANCE + view, power.cast_unsigned()),
        ZfpMode::Rate(bits) => (RATE + view, bits),
    }
}

fn zfp_from_code(number: u8, parameter: u8) -> Option<Zfp> {
    let view = VIEWS.get(usize::from(number % 4))?.0;
    let mode = match (number - number % 4, parameter) {
        (REVERSIBLE, 0) => ZfpMode::Reversible,
        (TOLERANCE, power) => tolerance(power.cast_signed())?,
        (RATE, bits @ 1..=MAX_RATE) => ZfpMode::Rate(bits),
        _ => return None,
    };
    Some(Zfp { view, mode })
}

fn tolerance(power: i8) -> Option<ZfpMode> {
    (power >= LEAST_TOLERANCE).then_some(ZfpMode::Tolerance(power))
}

impl fmt::Display for Zfp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = VIEWS.iter().find(|view| view.0 == self.view).map_or("", |view| view.1);
        write!(f, "zfp{view}")?;
        match self.mode {
            ZfpMode::Reversible => Ok(()),
            ZfpMode::Tolerance(power) => write!(f, "-tol{power}"),
            ZfpMode::Rate(bits) => write!(f, "-rate{bits}"),
        }
    }
}

/// Values as ZFP blocks, by the only name that they have.
fn zfp(name: &str) -> Option<Zfp> {
    let rest = name.strip_prefix("zfp")?;
    let named = VIEWS.iter().rev().find_map(|&(view, part)| Some((view, rest.strip_prefix(part)?)));
    let (view, mode) = named?;
    let mode = match mode.strip_prefix("-tol") {
        Some(power) => tolerance(power.parse().ok()?)?,
        None if mode.is_empty() => ZfpMode::Reversible,
        None => {
            let bits = mode.strip_prefix("-rate")?.parse().ok()?;
            ZfpMode::Rate((1..=MAX_RATE).contains(&bits).then_some(bits)?)
        }
    };
    // Numbers have other spellings.
    let zfp = Zfp { view, mode };
    (zfp.to_string() == name).then_some(zfp)
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = match self.values {
            Values::Plain => None,
            Values::F16 => Some("f16".to_owned()),
            Values::Bf16 => Some("bf16".to_owned()),
            Values::U8 => Some("u8".to_owned()),
            Values::U8Axis(axis) => Some(format!("u8-axis{axis}")),
            Values::Json => Some("json".to_owned()),
            Values::Zfp(zfp) => Some(zfp.to_string()),
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
        let full = ALIASES.iter().find(|alias| alias.0 == name).map_or(name, |alias| alias.1);
        let mut parts = full.split('+').peekable();
        let values = take(&mut parts, values);
        let filter = take(&mut parts, |part| Some(FILTERS.iter().find(|filter| filter.1 == part)?.0));
        let entropy = take(&mut parts, |part| Some(ENTROPIES.iter().find(|entropy| entropy.1 == part)?.0));
        match parts.next() {
            Some(_) => Err(unknown()),
            None => Codec {
                values: values.unwrap_or_default(),
                filter: filter.unwrap_or_default(),
                entropy: entropy.unwrap_or_default(),
            }
            .possible()
            .ok_or_else(unknown),
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
        "json" => Values::Json,
        other if other.starts_with("zfp") => Values::Zfp(zfp(other)?),
        other => Values::U8Axis(axis(other.strip_prefix("u8-axis")?)?),
    })
}

/// An axis, in its only spelling.
fn axis(number: &str) -> Option<u8> {
    number.parse().ok().filter(|axis: &u8| axis.to_string() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zfp_and_json_have_names_and_numbers() {
        for (name, full, code) in [
            ("json", "json", [5, 0, 0, 0]),
            ("json-lz4", "json+lz4", [5, 0, 1, 0]),
            ("zfp", "zfp", [16, 0, 0, 0]),
            ("zfp-1d+zstd1", "zfp-1d+zstd1", [17, 0, 3, 0]),
            ("defer-zfp-lz4", "zfp+lz4", [16, 0, 1, 0]),
            ("zfp-tol", "zfp-2d-tol-7", [22, 0, 0, 249]),
            ("zfp-tol-120", "zfp-tol-120", [20, 0, 0, 136]),
            ("zfp-1d-tol3+zstd-5", "zfp-1d-tol3+zstd-5", [21, 0, 2, 3]),
            ("zfp-rate1", "zfp-rate1", [24, 0, 0, 1]),
            ("zfp-2d-rate32", "zfp-2d-rate32", [26, 0, 0, 32]),
        ] {
            let codec: Codec = name.parse().unwrap();
            assert_eq!((codec.to_string().as_str(), codec.code()), (full, code));
            assert_eq!(full.parse(), Ok(codec));
            assert_eq!(Codec::from_code(code), Some(codec));
        }
    }

    #[test]
    fn other_names_and_numbers_are_unknown() {
        for name in [
            "zfp-3d",
            "zfp-2d-",
            "zfp-tol7-2d",
            "zfp-tol+3",
            "zfp-tol200",
            "zfp-tol-121",
            "zfp-2d-tol",
            "zfp-rate0",
            "zfp-rate33",
            "zfp-rate08",
            "zfp+shuffle",
            "json+shuffle+lz4",
            "json-lz4+lz4",
            "zstd-1",
        ] {
            assert!(name.parse::<Codec>().is_err(), "{name}");
        }
        for code in [
            [5, 0, 0, 1],
            [5, 1, 0, 0],
            [16, 1, 0, 0],
            [16, 0, 0, 1],
            [19, 0, 0, 0],
            [20, 0, 0, 135],
            [24, 0, 0, 0],
            [24, 0, 0, 33],
            [27, 0, 0, 8],
            [28, 0, 0, 0],
            [6, 0, 0, 0],
            [0, 0, 4, 0],
        ] {
            assert_eq!(Codec::from_code(code), None, "{code:?}");
        }
    }
}
