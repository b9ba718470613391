//! Bytes in fewer bytes. Nothing is lost.

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Entropy {
    /// Not at all.
    #[default]
    None,
    /// One LZ4 block.
    Lz4,
}

/// What packing needs to remember from item to item.
#[derive(Default)]
pub(super) struct Packers {}

impl Entropy {
    /// The most bytes that so many become.
    pub(super) fn max_len(self, len: usize) -> usize {
        match self {
            Entropy::None => len,
            Entropy::Lz4 => lz4_flex::block::get_maximum_output_size(len),
        }
    }

    /// Packs bytes into `out`, which has [`Entropy::max_len`]; gives how many they have become.
    pub(super) fn pack(self, bytes: &[u8], out: &mut [u8], _: &mut Packers) -> usize {
        match self {
            Entropy::None => {
                out[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
            Entropy::Lz4 => lz4_flex::block::compress_into(bytes, out)
                .expect("the output has room for the largest encoding"),
        }
    }

    /// Unpacks all of the bytes into `out`; gives how many they have become, which `out` has room for, or else it is an
    /// error.
    pub(super) fn unpack(self, packed: &[u8], out: &mut [u8], _: &mut Packers) -> Result<usize, String> {
        match self {
            Entropy::None => {
                let room = out.get_mut(..packed.len()).ok_or("it is too long")?;
                room.copy_from_slice(packed);
                Ok(packed.len())
            }
            Entropy::Lz4 => lz4_flex::block::decompress_into(packed, out).map_err(|e| e.to_string()),
        }
    }
}
