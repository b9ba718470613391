//! How fast the links of an emulated network are: what an experiment says of it, and what that makes of every end.
//! Pure.

use anyhow::{Result, bail, ensure};
use plan::End;
use serde::Deserialize;

/// Rates that can be emulated, Mbit/s.
const RANGE: std::ops::RangeInclusive<f64> = 0.1..=10_000.0;

/// As an experiment describes it. Every device, and the dispatcher, has a link of its own to a switch, which limits
/// all that it sends together, and all that it receives.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// Rate of each link to the switch.
    mbit_s: f64,
    /// Instead, the rate of each device's one, in their order.
    #[serde(default)]
    device_mbit_s: Vec<f64>,
    /// Instead, the rate of the dispatcher's one.
    #[serde(default)]
    dispatcher_mbit_s: Option<f64>,
    /// From one end to another, what is slower than the links of both.
    #[serde(default)]
    links: Vec<Slower>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slower {
    from: Name,
    to: Name,
    mbit_s: f64,
}

/// The number of a device, from 1 on, or `"dispatcher"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Name {
    Device(usize),
    Other(Other),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Other {
    Dispatcher,
}

/// The link of one end to the switch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Uplink {
    pub(crate) end: End,
    /// Rate in each direction.
    pub(crate) mbit_s: f64,
    /// To whom it sends more slowly, and how fast.
    pub(crate) slower: Vec<(End, f64)>,
}

impl Description {
    /// All links to the switch have the same rate.
    pub(crate) fn even(mbit_s: f64) -> Description {
        Description { mbit_s, device_mbit_s: Vec::new(), dispatcher_mbit_s: None, links: Vec::new() }
    }

    /// With a slower link from one device to another.
    pub(crate) fn with_link(mut self, from: usize, to: usize, mbit_s: f64) -> Description {
        self.links.push(Slower { from: Name::Device(from + 1), to: Name::Device(to + 1), mbit_s });
        self
    }

    /// The links of the dispatcher and of so many devices.
    ///
    /// # Errors
    /// For rates that cannot be emulated, ends that do not exist, and links that would not be slower than their ends'.
    pub(crate) fn uplinks(&self, devices: usize) -> Result<Vec<Uplink>> {
        let numbers = self.device_mbit_s.len();
        ensure!(
            numbers == 0 || numbers == devices,
            "`device_mbit_s` of a network has {numbers} rates for {devices} devices"
        );
        let uplink = |end: End| {
            let own = match end {
                End::Dispatcher => self.dispatcher_mbit_s,
                End::Device(i) => self.device_mbit_s.get(i).copied(),
            };
            Uplink { end, mbit_s: own.unwrap_or(self.mbit_s), slower: Vec::new() }
        };
        let mut uplinks: Vec<Uplink> = End::all(devices).map(uplink).collect();
        uplinks.iter().try_for_each(|uplink| in_range(uplink.mbit_s))?;
        for &Slower { from, to, mbit_s } in &self.links {
            in_range(mbit_s)?;
            let (from, to) = (from.place(devices)?, to.place(devices)?);
            let fastest = uplinks[from].mbit_s.min(uplinks[to].mbit_s);
            let (sender, receiver) = (uplinks[from].end, uplinks[to].end);
            let link = format!("the link from {} to {}", shown(sender), shown(receiver));
            ensure!(from != to, "{link} is none");
            ensure!(mbit_s < fastest, "{link} has {mbit_s} Mbit/s, no less than its ends ({fastest} Mbit/s)");
            let slower = &mut uplinks[from].slower;
            ensure!(slower.iter().all(|(end, _)| *end != receiver), "{link} is there twice");
            slower.push((receiver, mbit_s));
        }
        Ok(uplinks)
    }
}

impl Name {
    /// Its place among the ends, where the dispatcher comes first.
    fn place(self, devices: usize) -> Result<usize> {
        match self {
            Name::Other(Other::Dispatcher) => Ok(0),
            Name::Device(number) if (1..=devices).contains(&number) => Ok(number),
            Name::Device(number) => {
                bail!("a link of device {number}: devices are numbered from 1 to {devices}")
            }
        }
    }
}

fn in_range(mbit_s: f64) -> Result<()> {
    let (least, most) = (RANGE.start(), RANGE.end());
    ensure!(RANGE.contains(&mbit_s), "a link of {mbit_s} Mbit/s cannot be emulated: {least} to {most} can");
    Ok(())
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

    fn uplinks(text: &str) -> Result<Vec<Uplink>> {
        toml::from_str::<Description>(text)?.uplinks(2)
    }

    #[test]
    fn every_end_has_its_rate() {
        let check = |text: &str, expected: [f64; 3], slower: &[(usize, End, f64)]| {
            let found = uplinks(text).unwrap();
            assert_eq!(found.iter().map(|uplink| uplink.mbit_s).collect::<Vec<_>>(), expected, "{text}");
            let slower_of = |(i, uplink): (usize, &Uplink)| {
                uplink.slower.iter().map(move |&(to, mbit_s)| (i, to, mbit_s)).collect::<Vec<_>>()
            };
            let found: Vec<_> = found.iter().enumerate().flat_map(slower_of).collect();
            assert_eq!(found, slower, "{text}");
        };
        check("mbit_s = 100", [100.0; 3], &[]);
        check("mbit_s = 100\ndevice_mbit_s = [10, 20]", [100.0, 10.0, 20.0], &[]);
        check("mbit_s = 100\ndispatcher_mbit_s = 1000", [1000.0, 100.0, 100.0], &[]);
        let links = r#"
            mbit_s = 100
            links = [{ from = 1, to = 2, mbit_s = 10 }, { from = "dispatcher", to = 1, mbit_s = 0.5 }]
        "#;
        check(links, [100.0; 3], &[(0, End::Device(0), 0.5), (1, End::Device(1), 10.0)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |text: &str, message: &str| {
            let error = format!("{:#}", uplinks(text).unwrap_err());
            assert!(error.contains(message), "{text}: {error}");
        };
        check("mbit_s = 0", "0 Mbit/s cannot be emulated");
        check("mbit_s = nan", "cannot be emulated");
        check("mbit_s = 10\ndevice_mbit_s = [10]", "1 rates for 2 devices");
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
        check(&link("{ from = 1, to = 2, mbit_s = 1, delay = 1 }"), "unknown field");
    }
}
