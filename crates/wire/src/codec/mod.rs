//! How one tensor's bytes travel. The link's codec is part of the plan; the frame only repeats it.

mod lz4;

use std::fmt;
use std::str::FromStr;

/// The codec of a link, as named on the command line and numbered on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum CodecId {
    /// The memory form of the elements, unchanged.
    #[default]
    Raw = 0,
    /// One LZ4 block.
    Lz4 = 1,
}

/// Turns a tensor's bytes into what travels, and back.
pub trait Codec: Send + Sync {
    /// The largest encoding of `len` bytes, bytes. A frame that claims more is refused unread.
    fn max_encoded_len(&self, len: usize) -> usize;

    /// Encodes `bytes`. `scratch` is reused from item to item; the result may lie in it or be `bytes` itself.
    fn encode<'a>(&self, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8];

    /// Decodes into `out`, whose length the plan gives: all of it is written and all input consumed, or an
    /// error comes back.
    fn decode(&self, encoded: &[u8], out: &mut [u8]) -> Result<(), CodecError>;
}

/// Bytes that are no encoding of the expected tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The data decodes to another length.
    #[error("{codec} data decodes to {found} bytes, the plan says {expected}")]
    Length {
        /// The codec.
        codec: CodecId,
        /// Bytes the tensor takes.
        expected: usize,
        /// Bytes that came out.
        found: usize,
    },
    /// The data is malformed.
    #[error("{codec} data is malformed: {reason}")]
    Malformed {
        /// The codec.
        codec: CodecId,
        /// What the decoder says.
        reason: String,
    },
}

impl CodecId {
    /// Every codec.
    pub const ALL: [CodecId; 2] = [CodecId::Raw, CodecId::Lz4];

    /// The codec with this number on the wire.
    pub fn from_code(code: u8) -> Option<CodecId> {
        CodecId::ALL.into_iter().find(|id| *id as u8 == code)
    }

    /// The number on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            CodecId::Raw => "raw",
            CodecId::Lz4 => "lz4",
        }
    }

    /// The codec itself.
    pub fn codec(self) -> &'static dyn Codec {
        match self {
            CodecId::Raw => &Raw,
            CodecId::Lz4 => &lz4::Lz4,
        }
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CodecId {
    type Err = String;

    fn from_str(name: &str) -> Result<CodecId, String> {
        CodecId::ALL
            .into_iter()
            .find(|id| id.name() == name)
            .ok_or_else(|| format!("there is no codec `{name}`; choose raw or lz4"))
    }
}

struct Raw;

impl Codec for Raw {
    fn max_encoded_len(&self, len: usize) -> usize {
        len
    }

    fn encode<'a>(&self, bytes: &'a [u8], _: &'a mut Vec<u8>) -> &'a [u8] {
        bytes
    }

    fn decode(&self, encoded: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        if encoded.len() != out.len() {
            let (expected, found) = (out.len(), encoded.len());
            return Err(CodecError::Length { codec: CodecId::Raw, expected, found });
        }
        out.copy_from_slice(encoded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let noise: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        vec![vec![], vec![7], vec![0; 4096], noise]
    }

    #[test]
    fn every_codec_round_trips_within_its_bound() {
        for id in CodecId::ALL {
            for bytes in samples() {
                let mut scratch = Vec::new();
                let encoded = id.codec().encode(&bytes, &mut scratch);
                assert!(encoded.len() <= id.codec().max_encoded_len(bytes.len()));
                let mut out = vec![0xaa; bytes.len()];
                id.codec().decode(encoded, &mut out).unwrap();
                assert_eq!(out, bytes, "{id}");
            }
        }
    }

    #[test]
    fn truncated_padded_and_flipped_data_is_an_error_or_fills_exactly() {
        for id in CodecId::ALL {
            for bytes in samples() {
                let mut scratch = Vec::new();
                let good = id.codec().encode(&bytes, &mut scratch).to_vec();
                let mut out = vec![0; bytes.len()];
                for cut in 0..good.len() {
                    assert!(id.codec().decode(&good[..cut], &mut out).is_err(), "{id} cut at {cut}");
                    let mut bad = good.clone();
                    bad[cut] ^= 0x41;
                    let _ = id.codec().decode(&bad, &mut out);
                }
                let mut longer = good.clone();
                longer.push(0);
                assert!(id.codec().decode(&longer, &mut out).is_err(), "{id}");
                assert!(id.codec().decode(&good, &mut vec![0; bytes.len() + 1]).is_err(), "{id}");
            }
        }
    }

    #[test]
    fn names_and_codes_round_trip() {
        for id in CodecId::ALL {
            assert_eq!(id.name().parse(), Ok(id));
            assert_eq!(CodecId::from_code(id.code()), Some(id));
        }
        assert_eq!(CodecId::from_code(200), None);
    }
}
