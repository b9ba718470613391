//! What happens to a cluster while a run goes on: the `schedule` of an experiment's file, and the thread that carries it
//! out. Called by [`crate::cluster`] and [`crate::lab`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::faults::Fault;
use crate::network::Name;

/// The latest that something can happen, seconds: a day.
const LATEST_S: f64 = 86_400.0;

/// Something that happens to a device or a link, so many seconds after the first result that is measured.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    at_s: f64,
    /// Its number, from 1 on; for what happens to its link, or to that link's rate, the `"dispatcher"`, too.
    #[serde(default)]
    device: Option<Name>,
    /// Instead, what one of them sends ...
    #[serde(default)]
    from: Option<Name>,
    /// ... to another.
    #[serde(default)]
    to: Option<Name>,
    /// A share of a core from then on.
    #[serde(default)]
    quota: Option<f64>,
    /// A rate of the link from then on.
    #[serde(default)]
    mbit_s: Option<f64>,
    /// Memory from then on.
    #[serde(default)]
    memory_mb: Option<u64>,
    #[serde(default)]
    fault: Option<Word>,
}

/// The name of a fault.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Kill,
    Freeze,
    Thaw,
    Cut,
    Mend,
    Corrupt,
    Heal,
}

/// An entry that was checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// The entries of a cluster's schedule, by time; of the same time, in their order.
///
/// # Errors
/// For one that cannot be done to this cluster; they count from 1.
pub(crate) fn entries(cluster: &Cluster) -> Result<Vec<Entry>> {
    let entry = |(i, line): (usize, &Line)| {
        let read = line.entry(cluster);
        read.with_context(|| format!("entry {} of the schedule (at {} s)", i + 1, line.at_s))
    };
    let mut entries = cluster.schedule.iter().enumerate().map(entry).collect::<Result<Vec<Entry>>>()?;
    entries.sort_by_key(|entry| entry.at);
    Ok(entries)
}

impl Line {
    fn entry(&self, cluster: &Cluster) -> Result<Entry> {
        ensure!((0.0..=LATEST_S).contains(&self.at_s), "`at_s` is no time within a day");
        let fault = self.fault(cluster.devices.len())?;
        fault.check(cluster)?;
        Ok(Entry { at: Duration::from_secs_f64(self.at_s), fault })
    }

    fn fault(&self, devices: usize) -> Result<Fault> {
        let figures = (self.quota, self.mbit_s, self.memory_mb, self.fault);
        match (self.device, self.from, self.to) {
            (Some(device), None, None) => of_device(device, devices, figures),
            (None, Some(from), Some(to)) => {
                let (from, to) = (from.end(devices)?, to.end(devices)?);
                Ok(match figures {
                    (None, Some(mbit_s), None, None) => Fault::LinkRate { from, to, mbit_s },
                    (None, None, None, Some(Word::Corrupt)) => Fault::Corrupt { from, to },
                    (None, None, None, Some(Word::Heal)) => Fault::Heal { from, to },
                    _ => bail!("a link takes either `mbit_s`, or `fault`: \"corrupt\" or \"heal\""),
                })
            }
            _ => bail!("it takes either a `device`, or a link's `from` and `to`"),
        }
    }
}

type Figures = (Option<f64>, Option<f64>, Option<u64>, Option<Word>);

fn of_device(name: Name, devices: usize, figures: Figures) -> Result<Fault> {
    let end = name.end(devices)?;
    let device = || match end {
        plan::End::Device(device) => Ok(device),
        plan::End::Dispatcher => bail!("only the link of the dispatcher can be changed, or cut and mended"),
    };
    Ok(match figures {
        (Some(share), None, None, None) => Fault::Quota { device: device()?, share },
        (None, Some(mbit_s), None, None) => Fault::Rate { end, mbit_s },
        (None, None, Some(mb), None) => Fault::Memory { device: device()?, mb },
        (None, None, None, Some(Word::Kill)) => Fault::Kill(device()?),
        (None, None, None, Some(Word::Freeze)) => Fault::Freeze(device()?),
        (None, None, None, Some(Word::Thaw)) => Fault::Thaw(device()?),
        (None, None, None, Some(Word::Cut)) => Fault::Cut(end),
        (None, None, None, Some(Word::Mend)) => Fault::Mend(end),
        _ => bail!(
            "a device takes one of `quota`, `mbit_s`, `memory_mb` and `fault`: \"kill\", \"freeze\", \"thaw\", \"cut\" or \
             \"mend\""
        ),
    })
}

/// Runs something and carries entries out meanwhile, in a thread of its own. What is run is handed what it is to tell of
/// each result, by how many there are then; times count from the result of the number `first`.
///
/// # Errors
/// As what is run; else, when an entry could not be carried out, or was not reached.
pub(crate) fn during<T>(
    entries: &[Entry],
    first: usize,
    strike: impl Fn(&Fault) -> Result<()> + Send,
    run: impl FnOnce(&mut dyn FnMut(usize)) -> Result<T>,
) -> Result<T> {
    // There is one first result.
    let (begins, begun) = bounded(1);
    std::thread::scope(|scope| {
        let carrying = scope.spawn(|| carry_out(entries, &begun, strike));
        let mut tell = |results: usize| {
            if results == first {
                // The thread takes it, or has failed, which is told below.
                let _ = begins.try_send(Instant::now());
            }
        };
        let ran = run(&mut tell);
        drop(begins);
        let carried = carrying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (ran, carried) = (ran?, carried?);
        if let Some(Entry { at, fault }) = entries.get(carried) {
            bail!(
                "the run ended before the schedule was to {fault}, after {at:?}: it takes more items, or an earlier time"
            )
        }
        Ok(ran)
    })
}

/// Gives how many were carried out.
fn carry_out(
    entries: &[Entry],
    begun: &Receiver<Instant>,
    strike: impl Fn(&Fault) -> Result<()>,
) -> Result<usize> {
    let Ok(begin) = begun.recv() else { return Ok(0) };
    for (i, entry) in entries.iter().enumerate() {
        match begun.recv_deadline(begin + entry.at) {
            Err(RecvTimeoutError::Timeout) => {
                strike(&entry.fault).with_context(|| format!("the schedule, after {:?}", entry.at))?;
            }
            // It has ended; nothing more is sent.
            Err(RecvTimeoutError::Disconnected) | Ok(_) => return Ok(i),
        }
    }
    Ok(entries.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::End;
    use std::sync::Mutex;

    fn cluster(schedule: &str) -> Cluster {
        let text = format!(
            "name = 'c'\ndevices = [{{ quota = 0.5, idle_watts = 1, busy_watts = 2, count = 3 }}]\n\
             network = {{ mbit_s = 100 }}\nschedule = [{schedule}]"
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn entries_are_read_and_sorted() {
        let read = entries(&cluster(
            "{ at_s = 8, from = 1, to = 'dispatcher', mbit_s = 5 }, { at_s = 5.5, device = 2, quota = 0.05 },
             { at_s = 8, device = 3, fault = 'freeze' }, { at_s = 9, from = 2, to = 3, fault = 'corrupt' },
             { at_s = 10, device = 'dispatcher', fault = 'cut' }, { at_s = 11, device = 1, memory_mb = 64 }",
        ));
        let at = |s, fault| Entry { at: Duration::from_secs_f64(s), fault };
        let (one, two, three) = (End::Device(0), End::Device(1), End::Device(2));
        let expected = [
            at(5.5, Fault::Quota { device: 1, share: 0.05 }),
            at(8.0, Fault::LinkRate { from: one, to: End::Dispatcher, mbit_s: 5.0 }),
            at(8.0, Fault::Freeze(2)),
            at(9.0, Fault::Corrupt { from: two, to: three }),
            at(10.0, Fault::Cut(End::Dispatcher)),
            at(11.0, Fault::Memory { device: 0, mb: 64 }),
        ];
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let good = "{ at_s = 1, device = 1, fault = 'kill' }";
        for (line, message) in [
            ("at_s = -1, device = 1, fault = 'kill'", "(at -1 s): `at_s` is no time within a day"),
            ("at_s = nan, device = 1, fault = 'kill'", "no time within a day"),
            (
                "at_s = 1, device = 4, fault = 'kill'",
                "there is no device 4: devices are numbered from 1 to 3",
            ),
            ("at_s = 1, device = 'dispatcher', fault = 'kill'", "only the link of the dispatcher"),
            ("at_s = 1, device = 1, from = 1, fault = 'kill'", "either a `device`, or a link's"),
            ("at_s = 1, device = 1", "a device takes one of"),
            ("at_s = 1, device = 1, quota = 0.5, mbit_s = 5", "a device takes one of"),
            ("at_s = 1, device = 1, fault = 'corrupt'", "a device takes one of"),
            ("at_s = 1, from = 1, to = 2, fault = 'kill'", "a link takes either"),
            ("at_s = 1, from = 1, to = 1, mbit_s = 5", "from device 1 to itself is none"),
            ("at_s = 1, from = 1, to = 2, mbit_s = 0", "0 Mbit/s cannot be emulated"),
            ("at_s = 1, device = 1, quota = 2.0", "no share of a core"),
            ("at_s = 1, device = 1, quota = 0.01", "0.05 of a core at least"),
            ("at_s = 1, device = 1, memory_mb = 0", "no memory at all"),
        ] {
            let error = format!("{:#}", entries(&cluster(&format!("{good}, {{ {line} }}"))).unwrap_err());
            assert!(error.contains("entry 2 of the schedule") && error.contains(message), "{line}: {error}");
        }
        let mut without = cluster("{ at_s = 1, device = 1, fault = 'cut' }");
        without.network = None;
        assert!(format!("{:#}", entries(&without).unwrap_err()).contains("has no `network`"));
        assert!(toml::from_str::<Line>("at_s = 1\ndevice = 1\nfault = 'melt'").is_err());
    }

    #[test]
    fn entries_are_carried_out_from_the_first_result_on() {
        let entry = |ms, device| Entry { at: Duration::from_millis(ms), fault: Fault::Kill(device) };
        let check = |entries: &[Entry], results: usize, expected: Result<&[usize], &str>| {
            let (struck, done) = (Mutex::new(Vec::new()), bounded(10));
            let strike = |fault: &Fault| {
                let Fault::Kill(device) = *fault else { unreachable!("no other fault is there") };
                struck.lock().unwrap().push(device);
                done.0.send(()).unwrap();
                Ok(())
            };
            let run = |tell: &mut dyn FnMut(usize)| {
                (1..=results).for_each(tell);
                // A result after the first, and the run goes on until what can be done is done.
                let waits = expected.map_or(0, <[usize]>::len);
                (0..waits).for_each(|_| done.1.recv().unwrap());
                Ok(())
            };
            let ended = during(entries, 3, strike, run).map_err(|error| format!("{error:#}"));
            match expected {
                Ok(devices) => assert_eq!((ended, struck.into_inner().unwrap()), (Ok(()), devices.to_vec())),
                Err(message) => assert!(ended.unwrap_err().contains(message), "{message}"),
            }
        };
        check(&[], 5, Ok(&[]));
        check(&[entry(0, 1), entry(5, 2), entry(5, 0)], 4, Ok(&[1, 2, 0]));
        check(&[entry(0, 1)], 2, Err("the run ended before the schedule was to kill device 2"));
        check(&[entry(1000, 1)], 4, Err("to kill device 2, after 1s"));
    }

    #[test]
    fn errors_of_the_run_come_first_and_those_of_entries_then() {
        let (struck, strikes) = bounded(1);
        let strike = |_: &Fault| -> Result<()> {
            struck.send(())?;
            bail!("it lives")
        };
        let entries = [Entry { at: Duration::ZERO, fault: Fault::Kill(0) }];
        let failed = during(&entries, 1, strike, |tell| {
            tell(1);
            strikes.recv()?;
            Ok(())
        });
        assert_eq!(format!("{:#}", failed.unwrap_err()), "the schedule, after 0ns: it lives");
        let failed = during(&entries, 1, strike, |tell| -> Result<()> {
            tell(1);
            strikes.recv()?;
            bail!("the run failed")
        });
        assert_eq!(failed.unwrap_err().to_string(), "the run failed");
    }
}
