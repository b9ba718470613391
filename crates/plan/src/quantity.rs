//! Quantities with a unit, as people write them: `512MB`, `100Mbit/s`, `1ms`.
//!
//! Used by `cluster.toml` and by flags of the command line. Each prints in the largest unit that is exact,
//! so that a text read back gives the same quantity.

use std::fmt;
use std::str::FromStr;

/// A number of bytes: `512MB` (powers of 1000), `2GiB` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Data per time, above zero: `100Mbit/s`, `1Gbit/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bandwidth {
    bits_per_second: u64,
}

/// A span of time: `1ms`, `250us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delay {
    nanoseconds: u64,
}

/// A text that is no quantity of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: write a number{above_zero} and one of {}, such as {example}", units.join(", "))]
pub struct QuantityError {
    text: String,
    what: &'static str,
    above_zero: &'static str,
    units: Vec<&'static str>,
    example: &'static str,
}

impl ByteSize {
    /// That many bytes.
    pub const fn new(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Bandwidth {
    /// The bandwidth in bytes per second.
    pub fn bytes_per_second(self) -> f64 {
        self.bits_per_second as f64 / 8.0
    }

    /// Half of it, at least the least there is.
    pub(crate) fn half(self) -> Bandwidth {
        Bandwidth { bits_per_second: (self.bits_per_second / 2).max(1) }
    }
}

impl Delay {
    /// Twice as long.
    pub(crate) fn twice(self) -> Delay {
        Delay { nanoseconds: self.nanoseconds.saturating_mul(2) }
    }

    /// The delay in seconds.
    pub fn seconds(self) -> f64 {
        self.nanoseconds as f64 / 1e9
    }
}

/// How one kind of quantity is written.
struct Notation {
    what: &'static str,
    /// Unit and its size in the smallest one, largest first.
    units: &'static [(&'static str, u64)],
    example: &'static str,
    zero_allowed: bool,
}

const BYTES: Notation = Notation {
    what: "size",
    units: &[
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1000),
        ("B", 1),
    ],
    example: "512MB",
    zero_allowed: false,
};

const BANDWIDTH: Notation = Notation {
    what: "bandwidth",
    units: &[("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1000), ("bit/s", 1)],
    example: "100Mbit/s",
    zero_allowed: false,
};

const DELAY: Notation = Notation {
    what: "time",
    units: &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000), ("ns", 1)],
    example: "1ms",
    zero_allowed: true,
};

impl Notation {
    /// The quantity in the smallest unit.
    fn parse(&self, text: &str) -> Result<u64, QuantityError> {
        self.quantity(text).ok_or_else(|| QuantityError {
            text: text.to_owned(),
            what: self.what,
            above_zero: if self.zero_allowed { "" } else { " above 0" },
            units: self.units.iter().map(|&(unit, _)| unit).collect(),
            example: self.example,
        })
    }

    fn quantity(&self, text: &str) -> Option<u64> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = (&text[..split], text[split..].trim_start());
        let &(_, size) = self.units.iter().find(|&&(known, _)| known == unit)?;
        let quantity = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(size)?,
            // Above 2^53 a fraction has no meaning left.
            Err(_) => Some(number.parse::<f64>().ok()? * size as f64).filter(|&q| q < 9e15)?.round() as u64,
        };
        (quantity > 0 || self.zero_allowed).then_some(quantity)
    }

    fn print(&self, quantity: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self.units.iter().find(|&&(_, size)| quantity >= size && quantity.is_multiple_of(size));
        let &(unit, size) = exact.unwrap_or(&self.units[self.units.len() - 1]);
        write!(f, "{}{unit}", quantity / size)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<ByteSize, QuantityError> {
        BYTES.parse(text).map(ByteSize)
    }
}

impl FromStr for Bandwidth {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Bandwidth, QuantityError> {
        BANDWIDTH.parse(text).map(|bits_per_second| Bandwidth { bits_per_second })
    }
}

impl FromStr for Delay {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Delay, QuantityError> {
        DELAY.parse(text).map(|nanoseconds| Delay { nanoseconds })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        BYTES.print(self.0, f)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        BANDWIDTH.print(self.bits_per_second, f)
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        DELAY.print(self.nanoseconds, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes, printed) in [
            ("512MB", 512_000_000, "512MB"),
            ("2GiB", 2 << 30, "2GiB"),
            ("1.5 GiB", 3 << 29, "1536MiB"),
            ("1000kB", 1_000_000, "1MB"),
            ("7B", 7, "7B"),
            ("18446744073709551615B", u64::MAX, "18446744073709551615B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse(), Ok(size));
        }
    }

    #[test]
    fn bandwidths_and_delays() {
        for (text, bytes_per_second, printed) in [
            ("100Mbit/s", 12.5e6, "100Mbit/s"),
            ("2.5Gbit/s", 312.5e6, "2500Mbit/s"),
            ("8 bit/s", 1.0, "8bit/s"),
        ] {
            let bandwidth: Bandwidth = text.parse().unwrap();
            assert_eq!(bandwidth.bytes_per_second(), bytes_per_second, "{text}");
            assert_eq!(bandwidth.to_string(), printed);
        }
        for (text, seconds, printed) in
            [("1ms", 1e-3, "1ms"), ("0.25ms", 250e-6, "250us"), ("0s", 0.0, "0ns")]
        {
            let delay: Delay = text.parse().unwrap();
            assert_eq!(delay.seconds(), seconds, "{text}");
            assert_eq!(delay.to_string(), printed);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "512", "MB", "-1MB", "0MB", "1e3MB", "NaNMB", "infMB", "5 mb", "1..5MB", "20000000TiB"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert!("0Mbit/s".parse::<Bandwidth>().is_err());
        assert!("100Mbps".parse::<Bandwidth>().is_err());
        assert!("-1ms".parse::<Delay>().is_err());
        assert_eq!(
            "100Mbps".parse::<Bandwidth>().unwrap_err().to_string(),
            "`100Mbps` is no bandwidth: write a number above 0 and one of Gbit/s, Mbit/s, kbit/s, bit/s, such as \
             100Mbit/s"
        );
    }
}
