//! What is measured, as messages carry it: of stages, of links, of machines. What comes from a peer may be anything
//! until it was checked.

use serde::{Deserialize, Serialize};

/// The machine of a node or a dispatcher. What is not known is empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The same for all processes under one kernel, until it starts anew.
    pub id: String,
    /// Name of the processor.
    pub processor: String,
    /// Memory, bytes.
    pub memory: u64,
    /// Operating system and architecture.
    pub system: String,
}

/// What a stage did so far. Times are busy seconds, summed over items: each kind over those that it counts, so that a mean
/// is a time by the number of the same items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageFigures {
    /// Items done: sent, or handed over to be sent.
    pub items: u64,
    /// Items received, of which some wait.
    pub received: u64,
    /// Items that went through the engine.
    pub computed: u64,
    /// Frames arriving: from their first byte on the socket to their last, without the time in which this end took
    /// nothing. Those that wait in the system's buffers arrive faster than the link is. Of items received.
    pub transfer_seconds: f64,
    /// Decoding, checksums included. Of items received.
    pub decode_seconds: f64,
    /// Running the engine. Of items computed.
    pub compute_seconds: f64,
    /// Encoding and sending; of frames that are encoded, waiting for a place among those to send instead. Of items done.
    pub send_seconds: f64,
    /// Bytes of frames received.
    pub bytes_in: u64,
    /// Bytes of frames sent, of items done.
    pub bytes_out: u64,
    /// Tensors sent in a wider codec than the link's, which does not stand for their values. Of items done.
    pub widened: u64,
    /// CPU time of the thread that runs the engine; `None` where an engine has threads of its own, whose time nobody tells
    /// apart. Of items computed.
    pub compute_cpu_seconds: Option<f64>,
    /// CPU time of encoding, checksums included. Of items done.
    pub encode_cpu_seconds: f64,
    /// CPU time of decoding, checksums included. Of items received.
    pub decode_cpu_seconds: f64,
    /// CPU time of moving bytes: all else that the threads do that receive, decode, encode and send.
    pub move_cpu_seconds: f64,
    /// Since the stage started.
    pub elapsed_seconds: f64,
    /// CPU time of the node's whole process since it began.
    pub process_cpu_seconds: f64,
}

impl StageFigures {
    /// What the stage did since an earlier look. A node's word is not trusted to be sound: what cannot be is nothing, or
    /// less than nothing.
    #[must_use]
    pub fn since(&self, before: &StageFigures) -> StageFigures {
        StageFigures {
            items: self.items.saturating_sub(before.items),
            received: self.received.saturating_sub(before.received),
            computed: self.computed.saturating_sub(before.computed),
            transfer_seconds: self.transfer_seconds - before.transfer_seconds,
            decode_seconds: self.decode_seconds - before.decode_seconds,
            compute_seconds: self.compute_seconds - before.compute_seconds,
            send_seconds: self.send_seconds - before.send_seconds,
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            widened: self.widened.saturating_sub(before.widened),
            compute_cpu_seconds: self
                .compute_cpu_seconds
                .zip(before.compute_cpu_seconds)
                .map(|(now, before)| now - before),
            encode_cpu_seconds: self.encode_cpu_seconds - before.encode_cpu_seconds,
            decode_cpu_seconds: self.decode_cpu_seconds - before.decode_cpu_seconds,
            move_cpu_seconds: self.move_cpu_seconds - before.move_cpu_seconds,
            elapsed_seconds: self.elapsed_seconds - before.elapsed_seconds,
            process_cpu_seconds: self.process_cpu_seconds - before.process_cpu_seconds,
        }
    }
}

/// A process that has less of the CPU than this share of its time, while one thread of it works, is stopped.
const RUNNING_SHARE: f64 = 0.75;

/// Whether a process that had so much CPU time in this time, while one thread of it worked, is stopped again and again.
pub fn is_stopped(seconds: f64, cpu_seconds: f64) -> bool {
    cpu_seconds < RUNNING_SHARE * seconds
}

/// What runs with this median, mean and mean of CPU times take in the long run: see [`StageTime::sustained_seconds`].
pub fn sustained_seconds(median: f64, mean: f64, cpu: f64) -> f64 {
    if is_stopped(mean, cpu) || mean > 1.5 * median { mean } else { median }
}

/// What a stage takes on one item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// Median of its runs, seconds.
    pub seconds: f64,
    /// How far [`StageTime::sustained_seconds`] may be wrong, seconds.
    pub half_width_seconds: f64,
    /// Mean of its runs, seconds.
    pub mean_seconds: f64,
    /// CPU time of the node's process during a run, mean, seconds.
    pub cpu_seconds: f64,
    /// The number of runs.
    pub runs: u32,
    /// What the process grew by while it ran first, bytes; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
}

/// What one direction of a link is like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkFigures {
    /// Bytes a second.
    pub bandwidth: f64,
    /// Half of the round trip of a tiny message, seconds.
    pub delay_seconds: f64,
    /// What a frame takes besides its bytes, seconds.
    pub frame_seconds: f64,
    /// CPU time that a byte takes where it is sent, seconds.
    pub send_cpu_seconds: f64,
    /// CPU time that a byte takes where it is received, seconds.
    pub receive_cpu_seconds: f64,
}

/// What a codec takes in the long run, for each byte before encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CodecTime {
    /// Seconds to encode it.
    pub encode_seconds: f64,
    /// Seconds to decode it.
    pub decode_seconds: f64,
}

/// What the planner computes with, seconds and bytes a second: products and sums of such figures stay finite.
const LEAST: f64 = 1e-18;
const LARGEST: f64 = 1e18;

/// What may take no time at all.
fn is_time(seconds: f64) -> bool {
    (0.0..=LARGEST).contains(&seconds)
}

/// What a byte may take. It is multiplied with other times: what is not 0 stays away from what a number cannot tell from
/// it.
fn is_time_for_byte(seconds: f64) -> bool {
    seconds == 0.0 || (1e-15..=1.0).contains(&seconds)
}

impl StageTime {
    /// What an item takes in the long run, seconds: the median, which other work on the machine moves little, unless
    /// the process is stopped again and again, by a CPU quota or by heat. Then the mean counts: where runs are short,
    /// most fall between two stops, and where they are long, each holds a whole number of stops, of which the median
    /// takes one number for all.
    pub fn sustained_seconds(&self) -> f64 {
        sustained_seconds(self.seconds, self.mean_seconds, self.cpu_seconds)
    }

    /// Seconds that pass while the node's process gets one second of CPU time, working as fast as it may: 1 for one
    /// thread that nobody stops, 4 under a quota of a quarter of a core.
    pub fn pace(&self) -> f64 {
        self.mean_seconds / self.cpu_seconds
    }

    /// Whether these are times at all: a peer may answer anything.
    pub fn check(&self) -> Result<(), String> {
        // Nothing takes no time at all, and by the time others are divided.
        let some = |seconds: f64| (LEAST..=LARGEST).contains(&seconds);
        let StageTime { seconds, half_width_seconds, mean_seconds, cpu_seconds, .. } = *self;
        match some(seconds) && is_time(half_width_seconds) && some(mean_seconds) && some(cpu_seconds) {
            true => Ok(()),
            false => Err(format!(
                "a stage that takes {seconds} s, {half_width_seconds} s more or less, {mean_seconds} s in the mean"
            )),
        }
    }
}

impl CodecTime {
    /// Whether these are times at all: a peer may answer anything.
    pub fn check(&self) -> Result<(), String> {
        let CodecTime { encode_seconds, decode_seconds } = *self;
        match is_time_for_byte(encode_seconds) && is_time_for_byte(decode_seconds) {
            true => Ok(()),
            false => Err(format!("a codec that takes {encode_seconds} and {decode_seconds} s for a byte")),
        }
    }
}

impl LinkFigures {
    /// Whether a link can be like this: a peer may answer anything.
    pub fn check(&self) -> Result<(), String> {
        let LinkFigures { bandwidth, delay_seconds, frame_seconds, send_cpu_seconds, receive_cpu_seconds } =
            *self;
        let ends = is_time_for_byte(send_cpu_seconds) && is_time_for_byte(receive_cpu_seconds);
        match bandwidth >= LEAST && is_time(delay_seconds) && is_time(frame_seconds) && ends {
            true => Ok(()),
            false => Err(format!(
                "a link of {bandwidth} bytes a second, {delay_seconds} s of delay, {frame_seconds} s for a frame, and \
                 {send_cpu_seconds} and {receive_cpu_seconds} s of CPU time for a byte"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stage_did_is_the_difference_of_two_looks() {
        let look = |items, seconds: f64, cpu| StageFigures {
            items,
            send_seconds: seconds,
            compute_cpu_seconds: cpu,
            ..StageFigures::default()
        };
        let found = look(5, 2.5, Some(1.5)).since(&look(3, 1.0, Some(1.0)));
        assert_eq!(found, look(2, 1.5, Some(0.5)));
        // A node's word.
        assert_eq!(look(3, 1.0, None).since(&look(5, 2.5, Some(1.0))), look(0, -1.5, None));
    }

    #[test]
    fn figures_of_peers_are_figures() {
        let link = LinkFigures {
            bandwidth: 1e6,
            delay_seconds: 0.0,
            frame_seconds: 1e-6,
            send_cpu_seconds: 1e-9,
            receive_cpu_seconds: 0.0,
        };
        assert_eq!(link.check(), Ok(()));
        for bandwidth in [0.0, -1.0, 1e-19, f64::NAN] {
            assert!(LinkFigures { bandwidth, ..link }.check().is_err(), "{bandwidth}");
        }
        let time = StageTime {
            seconds: 1.0,
            half_width_seconds: 0.0,
            mean_seconds: 1.25,
            cpu_seconds: 1.25,
            runs: 1,
            peak_bytes: None,
        };
        assert_eq!(time.check(), Ok(()));
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(LinkFigures { delay_seconds: wrong, ..link }.check().is_err(), "{wrong}");
            assert!(LinkFigures { frame_seconds: wrong, ..link }.check().is_err(), "{wrong}");
            assert!(LinkFigures { send_cpu_seconds: wrong, ..link }.check().is_err(), "{wrong}");
            assert!(LinkFigures { receive_cpu_seconds: wrong, ..link }.check().is_err(), "{wrong}");
            assert!(StageTime { seconds: wrong, ..time }.check().is_err(), "{wrong}");
            assert!(StageTime { half_width_seconds: wrong, ..time }.check().is_err(), "{wrong}");
            assert!(StageTime { mean_seconds: wrong, ..time }.check().is_err(), "{wrong}");
        }
        assert!(StageTime { seconds: 0.0, ..time }.check().is_err());
        for (seconds, good) in [(0.0, true), (1e-12, true), (-1e-9, false), (1e-30, false), (f64::NAN, false)]
        {
            let other = CodecTime { encode_seconds: 1e-9, decode_seconds: 1e-9 };
            assert_eq!(CodecTime { encode_seconds: seconds, ..other }.check().is_ok(), good, "{seconds}");
            assert_eq!(CodecTime { decode_seconds: seconds, ..other }.check().is_ok(), good, "{seconds}");
        }
        assert!(StageTime { cpu_seconds: 0.0, ..time }.check().is_err());
        let throttled = StageTime { cpu_seconds: 0.3125, ..time };
        assert_eq!((throttled.sustained_seconds(), throttled.pace()), (1.25, 4.0));
        assert_eq!(time.sustained_seconds(), 1.0);
        assert_eq!(StageTime { mean_seconds: 4.0, ..time }.sustained_seconds(), 4.0);
    }
}
