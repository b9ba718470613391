//! The few codecs among which a link may switch while it runs.
//!
//! Made by a dispatcher for each link, sent to both of its ends in their orders, and kept to by both: the sender
//! switches to no other, the receiver decodes no other.

use std::fmt;

use tensor::DType;

use super::Codec;

/// Codecs that a link may use. [`Codec::RAW`] is always among them, as there is nothing to decode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodecList(Vec<Codec>);

/// What is no list of codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecListError {
    /// More than anybody has a use for.
    #[error("a link with {0} codecs; {max} are allowed", max = CodecList::MAX_LEN)]
    TooMany(usize),
    /// A number that no codec has here.
    #[error("codec number {0:?} means nothing to this program: install the same release of defer everywhere")]
    Unknown([u8; Codec::CODE_LEN]),
}

impl CodecList {
    /// Codecs of a list at most, raw not counted. Planners weigh about a dozen.
    pub const MAX_LEN: usize = 16;

    /// A list in order of preference; raw and what comes twice are left out.
    ///
    /// # Errors
    /// With more than [`CodecList::MAX_LEN`] codecs.
    pub fn new(codecs: impl IntoIterator<Item = Codec>) -> Result<CodecList, CodecListError> {
        let mut list = CodecList::default();
        for codec in codecs {
            if !list.contains(codec) {
                list.0.push(codec);
            }
        }
        match list.0.len() {
            len if len > CodecList::MAX_LEN => Err(CodecListError::TooMany(len)),
            _ => Ok(list),
        }
    }

    /// A list by the numbers that its codecs have on the wire.
    ///
    /// # Errors
    /// With more than [`CodecList::MAX_LEN`] numbers, or with one that this program does not know.
    pub fn from_codes(codes: &[[u8; Codec::CODE_LEN]]) -> Result<CodecList, CodecListError> {
        if codes.len() > CodecList::MAX_LEN {
            return Err(CodecListError::TooMany(codes.len()));
        }
        let codec = |&code| Codec::from_code(code).ok_or(CodecListError::Unknown(code));
        CodecList::new(codes.iter().map(codec).collect::<Result<Vec<_>, _>>()?)
    }

    /// The numbers that its codecs have on the wire, raw left out.
    pub fn codes(&self) -> Vec<[u8; Codec::CODE_LEN]> {
        self.0.iter().map(|codec| codec.code()).collect()
    }

    /// Whether a link may be set to a codec.
    pub fn contains(&self, codec: Codec) -> bool {
        codec == Codec::RAW || self.0.contains(&codec)
    }

    /// Whether a tensor of a type may travel as `codec`: as what one of the list's codecs makes of that type, or as what
    /// is [wider](Codec::wider), at last raw.
    pub fn admits(&self, codec: Codec, dtype: DType) -> bool {
        let makes = |listed: &Codec| {
            let own = listed.for_dtype(dtype);
            own == codec || own.wider() == codec
        };
        codec == Codec::RAW || self.0.iter().any(makes)
    }

    /// Its codecs: raw, then the others in order of preference.
    pub fn iter(&self) -> impl Iterator<Item = Codec> {
        std::iter::once(Codec::RAW).chain(self.0.iter().copied())
    }
}

impl From<Codec> for CodecList {
    fn from(codec: Codec) -> CodecList {
        CodecList::new([codec]).expect("one codec is not too many")
    }
}

impl fmt::Display for CodecList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|codec| codec.to_string()).collect();
        f.write_str(&names.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Values;

    const BF16: Codec = Codec { values: Values::Bf16, ..Codec::RAW };

    #[test]
    fn raw_and_what_a_codec_makes_of_a_type_are_admitted_and_nothing_else() {
        let packed = Codec { values: Values::Bf16, ..Codec::LZ4 };
        let list = CodecList::new([packed, Codec::RAW, packed]).unwrap();
        assert_eq!((list.to_string().as_str(), list.codes().len()), ("raw or bf16+lz4", 1));
        for (codec, dtype, admitted) in [
            (packed, DType::F32, true),
            (packed, DType::I64, false),
            (Codec::LZ4, DType::I64, true),
            (Codec::LZ4, DType::F32, false),
            (BF16, DType::F32, false),
            (Codec::RAW, DType::F32, true),
            (Codec { values: Values::F16, ..packed }, DType::F32, false),
        ] {
            assert_eq!(list.admits(codec, dtype), admitted, "{codec} of {dtype:?}");
        }
        assert!(list.contains(Codec::RAW) && list.contains(packed) && !list.contains(Codec::LZ4));
        assert_eq!(CodecList::default().to_string(), "raw");
        let halves = CodecList::from(Codec { values: Values::F16, ..packed });
        for (codec, dtype, admitted) in [
            (packed, DType::F32, true),
            (packed, DType::I64, false),
            (BF16, DType::F32, false),
            (Codec::LZ4, DType::F32, false),
            (Codec::LZ4, DType::I64, true),
        ] {
            assert_eq!(halves.admits(codec, dtype), admitted, "{codec} of {dtype:?}");
        }
        let bytes = CodecList::from(Codec { values: Values::U8, ..packed });
        assert!(!bytes.admits(packed, DType::F32), "raw comes after u8");
    }

    #[test]
    fn lists_are_short_and_of_known_codecs() {
        let axis = |n| [Codec::RAW, Codec::LZ4].map(|c| Codec { values: Values::U8Axis(n), ..c });
        let sixteen: Vec<Codec> = (0..8).flat_map(axis).collect();
        let full = CodecList::new(sixteen.iter().copied()).unwrap();
        assert_eq!(CodecList::from_codes(&full.codes()), Ok(full));
        assert_eq!(CodecList::new(sixteen.into_iter().chain([BF16])), Err(CodecListError::TooMany(17)));
        let many = vec![BF16.code(); 17];
        assert_eq!(CodecList::from_codes(&many), Err(CodecListError::TooMany(17)));
        let unknown = [99, 0, 0, 0];
        assert_eq!(CodecList::from_codes(&[BF16.code(), unknown]), Err(CodecListError::Unknown(unknown)));
    }
}
