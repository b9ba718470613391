//! How fast the links of an emulated network are, and how long what they carry is on its way: what an experiment says of
//! it, and what that makes of every end. Pure.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use plan::End;
use serde::Deserialize;

/// Rates that can be emulated, Mbit/s.
const RATES: std::ops::RangeInclusive<f64> = 0.1..=10_000.0;

/// Delays that can be emulated, ms: more than a second is no network.
const DELAYS: std::ops::RangeInclusive<f64> = 0.0..=1000.0;

/// What may be on its way from an end at once, bytes: where the kernel holds nothing back, it is in our memory. It is a
/// second at 500 Mbit/s.
const MOST_ON_ITS_WAY: f64 = 64e6;

/// As an experiment describes it. Every device, and the dispatcher, has a link of its own to a switch, which limits
/// all that it sends together, and all that it receives.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Rate of each link to the switch.
    mbit_s: f64,
    /// Instead, the rate of each device's one, in their order.
    #[serde(default)]
    device_mbit_s: Vec<f64>,
    /// Instead, the rate of the dispatcher's one.
    #[serde(default)]
    dispatcher_mbit_s: Option<f64>,
    /// How long what an end sends to any other is on its way; a round trip takes it twice. Without it, none.
    #[serde(default)]
    delay_ms: f64,
    /// Instead, of what each device sends, in their order.
    #[serde(default)]
    device_delay_ms: Vec<f64>,
    /// Instead, of what the dispatcher sends.
    #[serde(default)]
    dispatcher_delay_ms: Option<f64>,
    /// From one end to another, what is slower than the links of both, or is on its way for another time.
    #[serde(default)]
    links: Vec<Link>,
}

/// What differs from one end to another.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    from: Name,
    to: Name,
    #[serde(default)]
    mbit_s: Option<f64>,
    #[serde(default)]
    delay_ms: Option<f64>,
}

/// The number of a device, from 1 on, or `"dispatcher"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Name {
    Device(usize),
    Other(Other),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Other {
    Dispatcher,
}

/// The link of one end to the switch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Uplink {
    pub(crate) end: End,
    /// Rate in each direction.
    pub(crate) mbit_s: f64,
    /// Of what it sends.
    pub(crate) delay: Duration,
    /// To whom it sends differently.
    pub(crate) own: Vec<Own>,
}

/// What an end sends to one of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Own {
    pub(crate) to: End,
    /// Where it is slower than the links of both.
    pub(crate) mbit_s: Option<f64>,
    pub(crate) delay: Duration,
}

impl Description {
    /// All links to the switch have the same rate.
    pub(crate) fn even(mbit_s: f64) -> Description {
        Description {
            mbit_s,
            device_mbit_s: Vec::new(),
            dispatcher_mbit_s: None,
            delay_ms: 0.0,
            device_delay_ms: Vec::new(),
            dispatcher_delay_ms: None,
            links: Vec::new(),
        }
    }

    /// With a slower link from one device to another.
    pub(crate) fn with_link(mut self, from: usize, to: usize, mbit_s: f64) -> Description {
        let (from, to) = (Name::Device(from + 1), Name::Device(to + 1));
        self.links.push(Link { from, to, mbit_s: Some(mbit_s), delay_ms: None });
        self
    }

    /// With a delay of all links.
    pub(crate) fn with_delay(self, delay_ms: f64) -> Description {
        Description { delay_ms, ..self }
    }

    /// The links of the dispatcher and of so many devices, in the order of [`End::all`].
    ///
    /// # Errors
    /// For rates and delays that cannot be emulated, ends that do not exist, and links that would not be slower than
    /// their ends'.
    pub(crate) fn uplinks(&self, devices: usize) -> Result<Vec<Uplink>> {
        for (key, numbers) in
            [("device_mbit_s", &self.device_mbit_s), ("device_delay_ms", &self.device_delay_ms)]
        {
            let found = numbers.len();
            let right = found == 0 || found == devices;
            ensure!(right, "`{key}` of a network has {found} numbers for {devices} devices");
        }
        let mut uplinks = End::all(devices).map(|end| self.uplink(end)).collect::<Result<Vec<_>>>()?;
        for &Link { from, to, mbit_s, delay_ms } in &self.links {
            let (from, to) = (from.place(devices)?, to.place(devices)?);
            let fastest = uplinks[from].mbit_s.min(uplinks[to].mbit_s);
            let (sender, receiver) = (uplinks[from].end, uplinks[to].end);
            let link = format!("the link from {} to {}", shown(sender), shown(receiver));
            ensure!(from != to, "{link} is none");
            ensure!(mbit_s.or(delay_ms).is_some(), "{link} has neither `mbit_s` nor `delay_ms`");
            if let Some(mbit_s) = mbit_s {
                rate(mbit_s)?;
                ensure!(
                    mbit_s < fastest,
                    "{link} has {mbit_s} Mbit/s, no less than its ends ({fastest} Mbit/s)"
                );
            }
            let delay = delay_ms.map(delay).transpose()?.unwrap_or(uplinks[from].delay);
            let own = &mut uplinks[from].own;
            ensure!(own.iter().all(|own| own.to != receiver), "{link} is there twice");
            own.push(Own { to: receiver, mbit_s, delay });
        }
        uplinks.iter().try_for_each(|uplink| uplink.checked().map(drop))?;
        Ok(uplinks)
    }

    /// The link of an end, before what differs.
    fn uplink(&self, end: End) -> Result<Uplink> {
        let (own_rate, own_delay) = match end {
            End::Dispatcher => (self.dispatcher_mbit_s, self.dispatcher_delay_ms),
            End::Device(i) => (self.device_mbit_s.get(i).copied(), self.device_delay_ms.get(i).copied()),
        };
        let mbit_s = rate(own_rate.unwrap_or(self.mbit_s))?;
        Ok(Uplink { end, mbit_s, delay: delay(own_delay.unwrap_or(self.delay_ms))?, own: Vec::new() })
    }
}

impl Uplink {
    /// The longest delay of what it sends.
    pub(crate) fn longest_delay(&self) -> Duration {
        self.own.iter().map(|own| own.delay).fold(self.delay, Duration::max)
    }

    /// Its rate, Mbit/s, at which no more is on its way than may be.
    pub(crate) fn checked(&self) -> Result<f64> {
        let bytes = self.mbit_s * 1e6 / 8.0 * self.longest_delay().as_secs_f64();
        let (most, what) = (MOST_ON_ITS_WAY / 1e6, shown(self.end));
        ensure!(
            bytes <= MOST_ON_ITS_WAY,
            "{:.0} MB would be on their way from {what} at once, of {most} at most: less delay, or less Mbit/s",
            bytes / 1e6
        );
        Ok(self.mbit_s)
    }
}

impl Name {
    /// The end of this name in a network of so many devices.
    pub(crate) fn end(self, devices: usize) -> Result<End> {
        Ok(match self.place(devices)? {
            0 => End::Dispatcher,
            number => End::Device(number - 1),
        })
    }

    /// Its place among the ends, where the dispatcher comes first.
    fn place(self, devices: usize) -> Result<usize> {
        match self {
            Name::Other(Other::Dispatcher) => Ok(0),
            Name::Device(number) if (1..=devices).contains(&number) => Ok(number),
            Name::Device(number) => {
                bail!("there is no device {number}: devices are numbered from 1 to {devices}")
            }
        }
    }
}

/// A rate that can be emulated.
pub(crate) fn rate(mbit_s: f64) -> Result<f64> {
    let (least, most) = (RATES.start(), RATES.end());
    ensure!(RATES.contains(&mbit_s), "a link of {mbit_s} Mbit/s cannot be emulated: {least} to {most} can");
    Ok(mbit_s)
}

fn delay(ms: f64) -> Result<Duration> {
    let (least, most) = (DELAYS.start(), DELAYS.end());
    ensure!(DELAYS.contains(&ms), "a delay of {ms} ms cannot be emulated: {least} to {most} can");
    Ok(Duration::from_secs_f64(ms / 1e3))
}

/// What an end is called in messages.
pub(crate) fn shown(end: End) -> String {
    match end {
        End::Dispatcher => "the dispatcher".to_owned(),
        End::Device(i) => format!("device {}", i + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: End = End::Device(0);
    const TWO: End = End::Device(1);

    fn uplinks(text: &str) -> Result<Vec<Uplink>> {
        toml::from_str::<Description>(text)?.uplinks(2)
    }

    #[test]
    fn every_end_has_its_rate_and_delay() {
        let check = |text: &str, rates: [f64; 3], delays_ms: [u64; 3], own: &[(usize, Own)]| {
            let found = uplinks(text).unwrap();
            assert_eq!(found.iter().map(|uplink| uplink.mbit_s).collect::<Vec<_>>(), rates, "{text}");
            let delays = found.iter().map(|uplink| uplink.delay.as_millis() as u64);
            assert!(delays.eq(delays_ms), "{text}: {found:?}");
            let found = found.iter().enumerate();
            let found: Vec<_> =
                found.flat_map(|(i, uplink)| uplink.own.iter().map(move |own| (i, *own))).collect();
            assert_eq!(found, own, "{text}");
        };
        check("mbit_s = 100", [100.0; 3], [0; 3], &[]);
        check("mbit_s = 100\ndevice_mbit_s = [10, 20]", [100.0, 10.0, 20.0], [0; 3], &[]);
        check("mbit_s = 100\ndispatcher_mbit_s = 1000", [1000.0, 100.0, 100.0], [0; 3], &[]);
        check("mbit_s = 100\ndelay_ms = 5\ndevice_delay_ms = [1, 20]", [100.0; 3], [5, 1, 20], &[]);
        check("mbit_s = 100\ndispatcher_delay_ms = 3", [100.0; 3], [3, 0, 0], &[]);
        let own = |to, mbit_s, ms| Own { to, mbit_s, delay: Duration::from_millis(ms) };
        let links = r#"
            mbit_s = 100
            delay_ms = 2
            links = [{ from = 1, to = 2, mbit_s = 10 }, { from = "dispatcher", to = 1, mbit_s = 0.5, delay_ms = 9 },
                     { from = 2, to = 1, delay_ms = 0 }]
        "#;
        let expected = [(0, own(ONE, Some(0.5), 9)), (1, own(TWO, Some(10.0), 2)), (2, own(ONE, None, 0))];
        check(links, [100.0; 3], [2; 3], &expected);
        assert_eq!(uplinks(links).unwrap()[0].longest_delay(), Duration::from_millis(9));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |text: &str, message: &str| {
            let error = format!("{:#}", uplinks(text).unwrap_err());
            assert!(error.contains(message), "{text}: {error}");
        };
        check("mbit_s = 0", "0 Mbit/s cannot be emulated");
        check("mbit_s = nan", "cannot be emulated");
        check("mbit_s = 10\ndevice_mbit_s = [10]", "1 numbers for 2 devices");
        check("mbit_s = 10\ndelay_ms = -1", "a delay of -1 ms cannot be emulated");
        check("mbit_s = 10\ndelay_ms = nan", "cannot be emulated");
        check("mbit_s = 10\ndevice_delay_ms = [1]", "`device_delay_ms` of a network has 1 numbers");
        check(
            "mbit_s = 1000\ndispatcher_delay_ms = 1000",
            "125 MB would be on their way from the dispatcher",
        );
        let link = |link: &str| format!("mbit_s = 10\nlinks = [{link}]");
        check(&link("{ from = 1, to = 3, mbit_s = 1 }"), "numbered from 1 to 2");
        check(&link("{ from = 0, to = 2, mbit_s = 1 }"), "numbered from 1 to 2");
        check(&link("{ from = 'device-1', to = 2, mbit_s = 1 }"), "did not match");
        check(&link("{ from = 1, to = 1, mbit_s = 1 }"), "device 1 to device 1 is none");
        check(
            &link("{ from = 1, to = 'dispatcher', mbit_s = 10 }"),
            "device 1 to the dispatcher has 10 Mbit/s",
        );
        let one = "{ from = 1, to = 2, mbit_s = 1 }";
        check(&link(&format!("{one}, {one}")), "twice");
        check(&link("{ from = 1, to = 2 }"), "neither `mbit_s` nor `delay_ms`");
        check(&link("{ from = 1, to = 2, delay_ms = 2000 }"), "a delay of 2000 ms");
        check(&link("{ from = 1, to = 2, mbit_s = 1, delay = 1 }"), "unknown field");
    }
}
