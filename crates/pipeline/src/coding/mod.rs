//! What codecs cost: the bytes they make of what crosses each cut, and the time they take on each machine.
//!
//! Bytes and times come from the model's own tensors, measured on this machine while it is profiled; how fast other
//! machines are with each codec, from a tensor that all of them time. This makes the planner's codecs of both.

mod bench;
mod speed;

use std::collections::HashMap;

use plan::{CodecCost, Device, Problem};
use tensor::{Tensor, TensorSpec};
use wire::Codec;
use wire::control::CodecTime;

use bench::{Bench, Passed};
pub(crate) use speed::time;

use crate::accuracy::Accuracy;
use crate::profile::Profile;

/// What a codec makes of a model's tensors, on the machine that profiled it.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecFigures {
    /// The codec.
    pub codec: Codec,
    /// By boundary: bytes as they travel, on average of some items.
    pub bytes: Vec<u64>,
    /// Whether these were a user's own inputs.
    pub own: bool,
    /// CPU seconds for each byte before encoding.
    pub time: CodecTime,
}

/// How many times longer a device takes for a codec than the machine that profiled the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodecFactor {
    /// The codec.
    pub codec: Codec,
    /// To encode.
    pub encode: f64,
    /// To decode.
    pub decode: f64,
}

/// Which codecs a plan may use, and how fast its devices are with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coding {
    /// What may be lost on links.
    pub accuracy: Accuracy,
    /// By device: the codecs that were timed there. For others, and for devices behind the last, its speed counts.
    pub factors: Vec<Vec<CodecFactor>>,
}

impl Coding {
    /// Of devices that are as fast with codecs as they are with models.
    pub fn of(accuracy: Accuracy) -> Coding {
        Coding { accuracy, factors: Vec::new() }
    }

    /// The planner's codecs: those that the accuracy allows, as far as they were measured. If it is a single one, or
    /// none was, it counts as if it changed nothing.
    pub(crate) fn codecs(&self, profile: &Profile, problem: &Problem) -> Vec<plan::Codec> {
        let candidates = self.accuracy.candidates();
        let mut codecs: Vec<plan::Codec> =
            candidates.iter().filter_map(|&codec| self.known(codec, profile, problem)).collect();
        if codecs.is_empty() {
            codecs.push(unknown(candidates[0], problem));
        }
        codecs
    }

    /// The planner's index of a codec; one that the problem does not have is added to it. Without a measurement it
    /// counts as if it changed nothing.
    pub(crate) fn index(&self, codec: Codec, profile: &Profile, problem: &mut Problem) -> usize {
        let name = codec.to_string();
        let known = problem.codecs.iter().position(|known| known.name == name);
        known.unwrap_or_else(|| {
            let added = self.known(codec, profile, problem).unwrap_or_else(|| unknown(codec, problem));
            problem.codecs.push(added);
            problem.codecs.len() - 1
        })
    }

    fn known(&self, codec: Codec, profile: &Profile, problem: &Problem) -> Option<plan::Codec> {
        if codec == Codec::RAW {
            return Some(Problem::raw(&problem.boundaries, problem.devices.len()));
        }
        let CodecFigures { bytes, time, .. } = profile.codecs.iter().find(|known| known.codec == codec)?;
        let cost = |(i, device): (usize, &Device)| {
            let factors = self.factors.get(i).into_iter().flatten();
            let timed = factors.into_iter().find(|factor| factor.codec == codec);
            let (encode, decode) = timed.map_or_else(
                || (1.0 / speed(device, profile), 1.0 / speed(device, profile)),
                |factor| (factor.encode, factor.decode),
            );
            CodecCost {
                encode_seconds: time.encode_seconds * encode,
                decode_seconds: time.decode_seconds * decode,
            }
        };
        Some(plan::Codec {
            name: codec.to_string(),
            bytes: bytes.clone(),
            dispatcher: CodecCost {
                encode_seconds: time.encode_seconds,
                decode_seconds: time.decode_seconds,
            },
            devices: problem.devices.iter().enumerate().map(cost).collect(),
            copies: codec.room_copies(),
        })
    }
}

/// Has a problem count the memory of links that may be switched to these codecs, whatever a plan has them use.
pub(crate) fn make_room(problem: &mut Problem, codecs: impl Iterator<Item = Codec>) {
    // Of each stage the planner counts what the most demanding of all its codecs takes.
    let copies = codecs.map(Codec::room_copies).max().unwrap_or(0);
    let first = &mut problem.codecs[0].copies;
    *first = copies.max(*first);
}

fn unknown(codec: Codec, problem: &Problem) -> plan::Codec {
    let raw = Problem::raw(&problem.boundaries, problem.devices.len());
    plan::Codec { name: codec.to_string(), copies: codec.room_copies(), ..raw }
}

/// How many times faster than the machine that profiled the model a device runs all of it.
fn speed(device: &Device, profile: &Profile) -> f64 {
    let own = device.unit_seconds.as_ref().map(|times| times.iter().sum::<f64>());
    own.filter(|&own| own > 0.0).map_or(device.speed, |own| profile.total_seconds() / own)
}

/// What a node takes over what this machine takes, for each of these codecs.
pub(crate) fn factors(codecs: &[Codec], there: &[CodecTime], here: &[CodecTime]) -> Vec<CodecFactor> {
    let factor = |(&codec, (there, here)): (&Codec, (&CodecTime, &CodecTime))| {
        let over = |there: f64, here: f64| if here > 0.0 { there / here } else { 1.0 };
        CodecFactor {
            codec,
            encode: over(there.encode_seconds, here.encode_seconds),
            decode: over(there.decode_seconds, here.decode_seconds),
        }
    };
    std::iter::zip(codecs, std::iter::zip(there, here)).map(factor).collect()
}

/// Tries codecs on the frames of a model, boundary after boundary.
pub(crate) struct Trial {
    bench: Bench,
    codecs: Vec<Codec>,
    /// By tensor, which may cross several boundaries, and codec: bytes as it travels.
    known: HashMap<String, Vec<u64>>,
    /// By codec and boundary.
    bytes: Vec<Vec<u64>>,
    /// By codec: all that was tried.
    totals: Vec<Passed>,
}

impl Trial {
    pub(crate) fn new(codecs: &[Codec]) -> Trial {
        let mut bench = Bench::default();
        speed::warm_up(&mut bench, codecs);
        Trial {
            bench,
            codecs: codecs.to_vec(),
            known: HashMap::new(),
            bytes: vec![Vec::new(); codecs.len()],
            totals: vec![Passed::default(); codecs.len()],
        }
    }

    /// Takes in what crosses the next boundary, one frame of each item.
    pub(crate) fn cross(&mut self, specs: &[TensorSpec], frames: &[Vec<Tensor>]) {
        let mut sums = vec![0; self.codecs.len()];
        for (tensor, spec) in specs.iter().enumerate() {
            if !self.known.contains_key(&spec.name) {
                let passed = |trial: &mut Trial, codec: usize| {
                    let lens: u64 = frames.iter().map(|frame| trial.pass(codec, &frame[tensor])).sum();
                    lens.div_ceil(frames.len().max(1) as u64)
                };
                let lens = (0..self.codecs.len()).map(|codec| passed(self, codec)).collect();
                self.known.insert(spec.name.clone(), lens);
            }
            std::iter::zip(&mut sums, &self.known[&spec.name]).for_each(|(sum, len)| *sum += len);
        }
        std::iter::zip(&mut self.bytes, sums).for_each(|(bytes, sum)| bytes.push(sum));
    }

    fn pass(&mut self, codec: usize, tensor: &Tensor) -> u64 {
        let passed = self.bench.pass(self.codecs[codec], tensor.view());
        let total = &mut self.totals[codec];
        total.len += passed.len;
        total.encoded_len += passed.encoded_len;
        total.encode_seconds += passed.encode_seconds;
        total.decode_seconds += passed.decode_seconds;
        let (whole, tried) = (tensor.bytes().len() as u128, passed.len.max(1) as u128);
        // Never more than a tensor's own length times a small factor, which fits.
        (whole * passed.encoded_len as u128).div_ceil(tried) as u64
    }

    pub(crate) fn figures(self) -> Vec<CodecFigures> {
        let figures = |(codec, (bytes, total)): (Codec, (Vec<u64>, Passed))| {
            let per_byte = |seconds: f64| seconds / total.len.max(1) as f64;
            let time = CodecTime {
                encode_seconds: per_byte(total.encode_seconds),
                decode_seconds: per_byte(total.decode_seconds),
            };
            CodecFigures { codec, bytes, own: false, time }
        };
        std::iter::zip(self.codecs, std::iter::zip(self.bytes, self.totals)).map(figures).collect()
    }
}

#[cfg(test)]
mod tests {
    use plan::{Boundary, Queues, Resources, Unit};
    use tensor::DType;

    use super::*;

    fn codec(name: &str) -> Codec {
        name.parse().unwrap()
    }

    #[test]
    fn bytes_are_those_of_all_tensors_that_cross() {
        let mut trial = Trial::new(&[codec("bf16"), codec("lz4")]);
        let spec = |name: &str, tensor: &Tensor| TensorSpec::fixed(name, tensor.dtype(), tensor.shape());
        let floats = Tensor::from_slice([300].into(), &[1f32; 300]).unwrap();
        // Twice what is tried, in rows that are all zero.
        let large = Tensor::zeros(DType::F32, [1 << 18].into()).unwrap();
        let integers = Tensor::from_slice([10].into(), &[7i64; 10]).unwrap();
        let specs = [spec("a", &floats), spec("b", &large), spec("c", &integers)];
        trial.cross(&specs[..1], &[vec![floats.clone()]]);
        trial.cross(&specs, &[vec![floats, large, integers]]);
        let figures = trial.figures();
        assert_eq!(figures[0].bytes, [600, 600 + (2 << 18) + 80]);
        assert!(figures[1].bytes[1] > figures[1].bytes[0] && figures[1].bytes[1] < 1 << 16);
        assert!(figures.iter().all(|f| f.time.encode_seconds > 0.0 && f.time.decode_seconds > 0.0));
    }

    #[test]
    fn bytes_are_the_mean_of_all_items() {
        let mut trial = Trial::new(&[codec("lz4")]);
        let spec = [TensorSpec::fixed("a", DType::F32, [1000].into())];
        let noise: Vec<f32> =
            (0..1000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) >> 2)).collect();
        let (zeros, noise) = ([0f32; 1000].to_vec(), noise);
        let items = [zeros, noise].map(|v| vec![Tensor::from_slice([1000].into(), &v).unwrap()]);
        let alone = |item: &Vec<Tensor>| {
            let mut trial = Trial::new(&[codec("lz4")]);
            trial.cross(&spec, std::slice::from_ref(item));
            trial.figures()[0].bytes[0]
        };
        trial.cross(&spec, &items);
        let (few, many) = (alone(&items[0]), alone(&items[1]));
        assert!(few * 10 < many, "{few} {many}");
        assert_eq!(trial.figures()[0].bytes, [(few + many).div_ceil(2)]);
    }

    fn profile(codecs: &[&str]) -> Profile {
        let time = CodecTime { encode_seconds: 4.0, decode_seconds: 2.0 };
        let figures =
            |name: &&str| CodecFigures { codec: codec(name), bytes: vec![60, 10], own: false, time };
        let unit = crate::profile::UnitCost {
            seconds: 1.0,
            half_width_seconds: 0.0,
            operators: 1,
            weight_bytes: 0,
            activation_bytes: 0,
        };
        Profile {
            cuts: vec![],
            units: vec![unit],
            frames: vec![vec![]; 2],
            engine: String::new(),
            codecs: codecs.iter().map(figures).collect(),
        }
    }

    fn problem() -> Problem {
        let mut slow = Device::of_speed("slow", 1.0);
        slow.unit_seconds = Some(vec![10.0]);
        let devices = vec![Device::of_speed("fast", 2.0), slow];
        let boundaries = [100, 20].map(|bytes| Boundary { bytes, tensors: 1 }).to_vec();
        let unit = Unit { seconds: 1.0, ..Unit::default() };
        Problem::new(vec![unit], boundaries, Queues::default(), Resources::on_free_links(devices))
    }

    #[test]
    fn devices_are_as_fast_as_they_were_timed_or_as_they_are() {
        let timed = CodecFactor { codec: codec("f16"), encode: 3.0, decode: 5.0 };
        let coding = Coding { accuracy: Accuracy::Near, factors: vec![vec![timed]] };
        let codecs = coding.codecs(&profile(&["f16", "f16+shuffle+lz4"]), &problem());
        let names: Vec<&str> = codecs.iter().map(|codec| codec.name.as_str()).collect();
        assert_eq!(names, ["raw", "f16", "f16+shuffle+lz4"]);
        let seconds = |codec: usize, device: usize| {
            let CodecCost { encode_seconds, decode_seconds } = codecs[codec].devices[device];
            (encode_seconds, decode_seconds)
        };
        assert_eq!((seconds(1, 0), seconds(1, 1)), ((12.0, 10.0), (40.0, 20.0)));
        assert_eq!((seconds(2, 0), seconds(0, 1)), ((2.0, 1.0), (0.0, 0.0)));
        assert_eq!((codecs[1].dispatcher.encode_seconds, &codecs[1].bytes[..]), (4.0, &[60, 10][..]));
        assert_eq!(codecs.iter().map(|codec| codec.copies).collect::<Vec<_>>(), [0, 6, 6]);
    }

    #[test]
    fn codecs_that_nobody_measured_are_raw_by_another_name() {
        let names = |accuracy, measured: &[&str]| -> Vec<(String, u64)> {
            let codecs = Coding::of(accuracy).codecs(&profile(measured), &problem());
            codecs.into_iter().map(|codec| (codec.name, codec.bytes[0])).collect()
        };
        assert_eq!(names(Accuracy::Near, &[]), [("raw".to_owned(), 100)]);
        assert_eq!(names(Accuracy::Exact, &["bf16"]), [("raw".to_owned(), 100)]);
        assert_eq!(names(Accuracy::Only(codec("u8")), &[]), [("u8".to_owned(), 100)]);
        assert_eq!(names(Accuracy::Only(codec("u8")), &["u8"]), [("u8".to_owned(), 60)]);
        let (mut problem, profile) = (problem(), profile(&["u8"]));
        let coding = Coding::of(Accuracy::Near);
        let added = ["raw", "f16", "u8", "f16"].map(|name| coding.index(codec(name), &profile, &mut problem));
        assert_eq!(added, [0, 1, 2, 1]);
        assert_eq!((problem.codecs[1].bytes[0], problem.codecs[2].bytes[0]), (100, 60));
        let copies = (problem.codecs[0].copies, problem.codecs[1].copies);
        assert_eq!(copies, (0, 6), "encoded, though not measured");
    }

    #[test]
    fn what_takes_no_time_here_is_no_slower_there() {
        let time = |encode_seconds, decode_seconds| CodecTime { encode_seconds, decode_seconds };
        let found = factors(&[codec("bf16")], &[time(6.0, 1.0)], &[time(2.0, 0.0)]);
        assert_eq!(found, [CodecFactor { codec: codec("bf16"), encode: 3.0, decode: 1.0 }]);
    }
}
