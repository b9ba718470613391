//! How fast a machine encodes and decodes: the same function on the same tensor on every node and on the dispatcher, so
//! that what the dispatcher measured on real tensors can be carried over.

use std::time::{Duration, Instant};

use tensor::{Tensor, TensorView};
use wire::Codec;
use wire::control::{CodecTime, is_stopped};

use super::bench::{Bench, Passed};
use crate::machine;

/// Rounds over all codecs at least, of which the median counts.
const MIN_ROUNDS: usize = 5;

/// Rounds at most: codecs that do nothing take no time.
const MAX_ROUNDS: usize = 10_000;

/// Rounds go on for so long,
const TIME: Duration = Duration::from_millis(100);

/// and for so long in a process that is stopped again and again, by a CPU quota: until the share of time that it runs
/// is known. Each stop may take a tenth of a second.
const TIME_OF_STOPPED: Duration = Duration::from_secs(1);

/// However slow the machine is, it comes to an end after the first round behind this.
const LONGEST: Duration = Duration::from_secs(20);

/// Elements of the tensor, and of one of its rows: 256 KiB, and the width of a feature map.
const ELEMENTS: usize = 64 * ROW * ROW;
const ROW: usize = 32;

/// What these codecs take on this machine, for each byte before encoding, in the long run.
pub(crate) fn time(codecs: &[Codec]) -> Vec<CodecTime> {
    let values = activation();
    let view = TensorView::of_slice([1, 64, ROW, ROW].into(), &values).expect("as many values as it says");
    time_on(codecs, view)
}

fn time_on(codecs: &[Codec], tensor: TensorView<'_>) -> Vec<CodecTime> {
    let mut bench = Bench::default();
    // The first round makes room.
    for &codec in codecs {
        bench.pass(codec, tensor);
    }
    let mut rounds: Vec<Vec<Passed>> = Vec::new();
    let (start, cpu_start) = (Instant::now(), machine::thread_cpu_seconds());
    let pace = loop {
        rounds.push(codecs.iter().map(|&codec| bench.pass(codec, tensor)).collect());
        let wall = start.elapsed();
        let cpu = machine::thread_cpu_seconds() - cpu_start;
        let share = cpu / wall.as_secs_f64().max(f64::MIN_POSITIVE);
        let stopped = is_stopped(wall.as_secs_f64(), cpu) && cpu > 0.0;
        let enough = if stopped { TIME_OF_STOPPED } else { TIME };
        if (rounds.len() >= MIN_ROUNDS && wall >= enough) || wall >= LONGEST || rounds.len() == MAX_ROUNDS {
            break if stopped { 1.0 / share } else { 1.0 };
        }
    };
    let time = |i: usize| {
        let of = |seconds: fn(&Passed) -> f64| {
            pace * median(rounds.iter().map(|round| seconds(&round[i]) / round[i].len.max(1) as f64))
        };
        CodecTime { encode_seconds: of(|p| p.encode_seconds), decode_seconds: of(|p| p.decode_seconds) }
    };
    (0..codecs.len()).map(time).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Values like those behind a ReLU: neighbours are alike, and a good part is zero. The same everywhere.
fn activation() -> Vec<f32> {
    let mut seed = 1u32;
    let mut noise = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut above = [0.0f32; ROW];
    let mut left = 0.0;
    let mut value = |i: usize| {
        left = 0.45 * left + 0.45 * above[i % ROW] + 0.3 * noise();
        above[i % ROW] = left;
        (left + 0.1).max(0.0)
    };
    (0..ELEMENTS).map(&mut value).collect()
}

/// The tensor as a link would carry it, to make room for any sample.
pub(super) fn warm_up(bench: &mut Bench, codecs: &[Codec]) {
    let values = activation().repeat(2);
    let tensor = Tensor::from_slice([2, 64, ROW, ROW].into(), &values).expect("as many values as it says");
    for &codec in codecs {
        bench.pass(codec, tensor.view());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::Accuracy;

    #[test]
    fn the_tensor_is_like_an_activation() {
        let values = activation();
        let zeros = values.iter().filter(|&&v| v == 0.0).count() as f64 / values.len() as f64;
        assert!((0.1..0.6).contains(&zeros), "{zeros} are zero");
        assert!(values.iter().all(|v| v.is_finite() && *v >= 0.0));
        let packed = Bench::default().pass(
            "bf16+shuffle+lz4".parse().unwrap(),
            TensorView::of_slice([1, 64, ROW, ROW].into(), &values).unwrap(),
        );
        let ratio = packed.len as f64 / packed.encoded_len as f64;
        assert!((2.1..6.0).contains(&ratio), "packs {ratio} times");
    }

    #[test]
    fn every_codec_takes_some_time_and_raw_takes_none() {
        let codecs = Accuracy::Relaxed.candidates();
        let times = time(&codecs);
        for (codec, time) in std::iter::zip(&codecs, &times) {
            let both = time.encode_seconds.min(time.decode_seconds);
            assert_eq!(both > 0.0, *codec != Codec::RAW, "{codec}: {time:?}");
            assert_eq!(time.check(), Ok(()));
        }
        assert_eq!(time_on(&[], TensorView::of_slice([1].into(), &[1f32]).unwrap()), []);
    }
}
