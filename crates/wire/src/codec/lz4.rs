//! LZ4 blocks: cheap to undo, and worth it where activations are mostly zeros.

use super::{Codec, CodecError, CodecId};

pub(super) struct Lz4;

impl Codec for Lz4 {
    fn max_encoded_len(&self, len: usize) -> usize {
        lz4_flex::block::get_maximum_output_size(len)
    }

    fn encode<'a>(&self, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let bound = self.max_encoded_len(bytes.len());
        if scratch.len() < bound {
            scratch.resize(bound, 0);
        }
        let len = lz4_flex::block::compress_into(bytes, scratch)
            .expect("the output has room for the largest encoding");
        &scratch[..len]
    }

    fn decode(&self, encoded: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        let expected = out.len();
        let found = lz4_flex::block::decompress_into(encoded, out)
            .map_err(|e| CodecError::Malformed { codec: CodecId::Lz4, reason: e.to_string() })?;
        if found != expected {
            return Err(CodecError::Length { codec: CodecId::Lz4, expected, found });
        }
        Ok(())
    }
}
