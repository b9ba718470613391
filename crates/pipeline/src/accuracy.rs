//! How much of the tensors' values links may lose, as users say it, and the codecs that each level allows.
//!
//! Asked for on the command line and in [`crate::Options`]; the planner chooses among the candidates, link by link.

use std::fmt;
use std::str::FromStr;

use tensor::TensorSpec;
use wire::codec::UnknownCodec;
use wire::{Codec, Entropy, Fidelity, Filter, Values};

/// How close results shall be to those of the model on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Accuracy {
    /// Links give back every bit.
    Exact,
    /// Links send halves, `f16` where a tensor's values fit it and else `bf16`: the answers of trained networks hold.
    #[default]
    Near,
    /// Links may be as coarse as 256 steps from a tensor's least to its largest value.
    Relaxed,
    /// Every link uses this codec, whatever it costs.
    Only(Codec),
}

/// A text that is neither a level nor a codec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose exact, near or relaxed, or a codec: {0}")]
pub struct UnknownAccuracy(UnknownCodec);

/// What is worth a try with elements of several bytes, in which packers find little as they lie side by side.
const WIDE: [(Filter, Entropy); 6] = [
    (Filter::None, Entropy::None),
    (Filter::ZeroBitmap, Entropy::None),
    (Filter::Shuffle, Entropy::Lz4),
    (Filter::Shuffle, Entropy::ZstdFast),
    (Filter::Shuffle, Entropy::Zstd1),
    (Filter::RowDelta, Entropy::Zstd1),
];

/// The same with elements of one byte.
const NARROW: [(Filter, Entropy); 5] = [
    (Filter::None, Entropy::None),
    (Filter::None, Entropy::Lz4),
    (Filter::None, Entropy::ZstdFast),
    (Filter::None, Entropy::Zstd1),
    (Filter::RowDelta, Entropy::Zstd1),
];

impl Accuracy {
    /// The codecs that a link may use. Raw comes first: it is taken where nothing is won. The others come with their
    /// values as small as the level has them: what is kept of more bits takes more bytes, and no less time.
    pub fn candidates(self) -> Vec<Codec> {
        let packed = |values, ways: &[(Filter, Entropy)]| -> Vec<Codec> {
            ways.iter().map(|&(filter, entropy)| Codec { values, filter, entropy }).collect()
        };
        match self {
            Accuracy::Exact => packed(Values::Plain, &WIDE),
            // With the 8 bits of bf16 an answer in a thousand changes (`cargo bench -p pipeline --bench agreement`).
            Accuracy::Near => [vec![Codec::RAW], packed(Values::F16, &WIDE)].concat(),
            // Bytes have no place for infinity: where it occurs, and where a trial does not bear bytes out, the level
            // before is left.
            Accuracy::Relaxed => [Accuracy::Near.candidates(), packed(Values::U8, &NARROW)].concat(),
            Accuracy::Only(codec) => vec![codec],
        }
    }

    /// The least that comes out of a link again.
    pub fn fidelity(self) -> Fidelity {
        match self {
            Accuracy::Exact => Fidelity::Exact,
            Accuracy::Near => Fidelity::Half,
            Accuracy::Relaxed => Fidelity::Coarse,
            Accuracy::Only(codec) => codec.fidelity(),
        }
    }
}

/// What comes out again of these tensors: the least that the codec makes of one of them. Those of integers and bytes
/// always come back as they were.
pub fn fidelity_on(tensors: &[TensorSpec], codec: Codec) -> Fidelity {
    let fidelity = |tensor: &TensorSpec| codec.for_dtype(tensor.dtype).fidelity();
    tensors.iter().map(fidelity).min().unwrap_or(Fidelity::Exact)
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accuracy::Exact => f.write_str("exact"),
            Accuracy::Near => f.write_str("near"),
            Accuracy::Relaxed => f.write_str("relaxed"),
            Accuracy::Only(codec) => codec.fmt(f),
        }
    }
}

impl FromStr for Accuracy {
    type Err = UnknownAccuracy;

    fn from_str(text: &str) -> Result<Accuracy, UnknownAccuracy> {
        match text {
            "exact" => Ok(Accuracy::Exact),
            "near" => Ok(Accuracy::Near),
            "relaxed" => Ok(Accuracy::Relaxed),
            codec => codec.parse().map(Accuracy::Only).map_err(UnknownAccuracy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [Accuracy; 3] = [Accuracy::Exact, Accuracy::Near, Accuracy::Relaxed];

    #[test]
    fn names_round_trip() {
        for accuracy in LEVELS.into_iter().chain([Accuracy::Only(Codec::LZ4), Accuracy::Only(Codec::RAW)]) {
            assert_eq!(accuracy.to_string().parse(), Ok(accuracy));
        }
        let error = "close".parse::<Accuracy>().unwrap_err().to_string();
        assert!(error.contains("exact, near or relaxed") && error.contains("`close`"), "{error}");
    }

    #[test]
    fn what_is_lost_hangs_on_what_travels() {
        use Fidelity::{Coarse, Exact, Half};
        use tensor::DType::{Bool, F16, F32, I64, U8};
        for (dtypes, codec, expected) in [
            (&[U8][..], "u8+zstd1", Exact),
            (&[I64, Bool], "f16", Exact),
            (&[F16], "u8", Exact),
            (&[F32], "u8+zstd1", Coarse),
            (&[F32], "bf16", Half),
            (&[F32], "lz4", Exact),
            (&[I64, F32], "u8", Coarse),
            (&[], "u8", Exact),
        ] {
            let spec = |&dtype| TensorSpec { name: "x".into(), dtype, dims: None };
            let tensors: Vec<TensorSpec> = dtypes.iter().map(spec).collect();
            assert_eq!(fidelity_on(&tensors, codec.parse().unwrap()), expected, "{dtypes:?} as {codec}");
        }
    }

    #[test]
    fn levels_keep_what_they_promise_and_stay_short() {
        for accuracy in LEVELS {
            let candidates = accuracy.candidates();
            assert_eq!(candidates[0], Codec::RAW, "{accuracy}");
            assert!(candidates.len() <= 12, "{accuracy} has {}", candidates.len());
            for (i, codec) in candidates.iter().enumerate() {
                assert!(codec.fidelity() >= accuracy.fidelity(), "{codec} for {accuracy}");
                assert!(!candidates[..i].contains(codec), "{codec} twice for {accuracy}");
            }
        }
        assert_eq!(Accuracy::Only(Codec::LZ4).candidates(), [Codec::LZ4]);
    }
}
