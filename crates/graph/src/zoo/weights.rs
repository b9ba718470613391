//! Seeded weights, the same bytes on every machine.
//!
//! Used by the model zoo only. No `libm` function, no thread count and no order of calls may change a
//! value: a weight is a function of the seed, its tensor's name and its index.

use bytes::Bytes;

/// How the values of one weight tensor are distributed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Init {
    /// Mean of the values.
    pub mean: f64,
    /// Standard deviation of the values. No value is further than 3.47 of these from the mean.
    pub std: f64,
    /// Length of the runs, one per output channel, that are shifted to a mean of exactly `mean`.
    pub centred: Option<usize>,
}

impl Init {
    /// Values around `mean`.
    pub(super) fn around(mean: f64, std: f64) -> Init {
        Init { mean, std, centred: None }
    }

    /// For inputs of mean zero: keeps their variance (LeCun).
    pub(super) fn lecun(fan_in: usize) -> Init {
        Init::around(0.0, (1.0 / fan_in as f64).sqrt())
    }

    /// For the output of a ReLU: keeps its variance, and takes its mean away, by filters that sum to zero.
    /// Without that the positive mean of rectified values grows with depth until every input gives the
    /// same answer (Brock, De and Smith, "Characterizing signal propagation to close the performance gap
    /// in unnormalized ResNets", 2021: scaled weight standardisation).
    pub(super) fn after_relu(fan_in: usize) -> Init {
        /// 1 / variance of max(x, 0) for a standard normal x: 2 / (1 - 1 / pi).
        const GAIN: f64 = 2.933_884_413_848;
        Init { centred: Some(fan_in), ..Init::around(0.0, (GAIN / fan_in as f64).sqrt()) }
    }

    /// The same with `gain` times the standard deviation.
    pub(super) fn scaled(self, gain: f64) -> Init {
        Init { std: self.std * gain, ..self }
    }
}

/// The little-endian `f32` values of the tensor called `name`.
pub(super) fn fill(init: Init, len: usize, name: &str, seed: u64) -> Bytes {
    let stream = Stream::new(seed, name);
    let step = init.std / UNIT_STD;
    let mut bytes = vec![0; len * size_of::<f32>()];
    let run = init.centred.unwrap_or(len).max(1);
    for (index, values) in bytes.chunks_mut(run * size_of::<f32>()).enumerate() {
        let first = (index * run) as u64;
        let shift = init.centred.map_or(0.0, |run| stream.mean(first, run));
        for (value, at) in values.chunks_exact_mut(size_of::<f32>()).zip(first..) {
            let x = init.mean + (f64::from(stream.at(at)) - shift) * step;
            value.copy_from_slice(&(x as f32).to_le_bytes());
        }
    }
    bytes.into()
}

/// Standard deviation of [`Stream::at`]: four independent uniform integers of 16 bits.
const UNIT_STD: f64 = 37_837.227_237_206;

/// Almost normal integers by position: SplitMix64, the sum of the four 16-bit quarters of its output.
struct Stream {
    start: u64,
}

impl Stream {
    fn new(seed: u64, name: &str) -> Stream {
        // FNV-1a
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Stream { start: mix(seed ^ hash) }
    }

    /// Value number `index`; of mean zero.
    fn at(&self, index: u64) -> i32 {
        let z = mix(self.start.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // Two sums of 16 bits at a time; neither can overflow its 32 bits.
        let pairs = (z & 0x0000_ffff_0000_ffff) + ((z >> 16) & 0x0000_ffff_0000_ffff);
        (pairs as u32 + (pairs >> 32) as u32) as i32 - 2 * 0xffff
    }

    fn mean(&self, first: u64, len: usize) -> f64 {
        let sum: i64 = (first..first + len as u64).map(|i| i64::from(self.at(i))).sum();
        sum as f64 / len as f64
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(init: Init, len: usize, name: &str, seed: u64) -> Vec<f32> {
        let bytes = fill(init, len, name, seed);
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, var.sqrt())
    }

    #[test]
    fn values_have_the_asked_moments_and_bounds() {
        let v = values(Init::around(1.0, 0.1), 100_000, "w", 7);
        let (mean, std) = moments(&v);
        assert!((mean - 1.0).abs() < 2e-3, "mean {mean}");
        assert!((std - 0.1).abs() < 1e-3, "std {std}");
        assert!(v.iter().all(|x| (x - 1.0).abs() < 0.347));
    }

    #[test]
    fn filters_after_a_relu_sum_to_zero() {
        let v = values(Init::after_relu(64), 64 * 10, "w", 7);
        for filter in v.chunks(64) {
            assert!(filter.iter().sum::<f32>().abs() < 1e-5);
            assert!(moments(filter).1 > 0.1);
        }
    }

    #[test]
    fn the_bytes_are_pinned() {
        // A change here changes every zoo model: results recorded with seeded models no longer compare.
        assert_eq!(values(Init::around(0.0, 1.0), 3, "fc.weight", 1), PINNED);
        assert_ne!(values(Init::around(0.0, 1.0), 3, "fc.weight", 2), PINNED);
        assert_ne!(values(Init::around(0.0, 1.0), 3, "fc.bias", 1), PINNED);
    }

    const PINNED: [f32; 3] = [0.608_157_7, 2.194_029_8, -0.375_027_48];
}
