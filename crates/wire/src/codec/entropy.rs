//! Bytes in fewer bytes: LZ4 blocks and Zstandard frames. Nothing is lost.
//!
//! Unpacking believes no length in the data: it writes into memory that the caller measured by the plan, and takes
//! exactly one block or frame that ends where the data ends.

use lz4_flex::block::{self, CompressTable};
use zstd_safe::{CCtx, DCtx};

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Entropy {
    /// Not at all.
    #[default]
    None,
    /// One LZ4 block.
    Lz4,
    /// One Zstandard frame of level -5: the fast one.
    ZstdFast,
    /// One Zstandard frame of level 1: the small one.
    Zstd1,
}

/// How every Zstandard frame starts. Skippable frames start otherwise.
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// What packing needs to remember from item to item: tables and contexts, made when first used.
#[derive(Default)]
pub(crate) struct Packers {
    lz4: Option<CompressTable>,
    zstd_in: Option<CCtx<'static>>,
    zstd_out: Option<DCtx<'static>>,
}

/// Zstandard packs at most so many bytes into a block (RFC 8878, 3.1.1.2.4), which takes at least so many.
const ZSTD_BLOCK: usize = 128 << 10;
const ZSTD_SHORTEST_BLOCK: usize = 4;

impl Entropy {
    /// The most bytes that so many become. Of lengths that no memory has it gives what no memory has.
    pub(crate) fn max_len(self, len: usize) -> usize {
        match self {
            Entropy::None => len,
            // What `block::get_maximum_output_size` gives, which overflows.
            Entropy::Lz4 => usize::try_from(len as u128 * 110 / 100 + 20).unwrap_or(usize::MAX),
            Entropy::ZstdFast | Entropy::Zstd1 => zstd_safe::compress_bound(len).max(len),
        }
    }

    /// The most that so many packed bytes can become: what is unpacked takes no more memory than that, whatever a
    /// descriptor says.
    pub(crate) fn max_unpacked_len(self, packed: usize) -> usize {
        match self {
            Entropy::None => packed,
            // A byte that makes a match longer stands for 255.
            Entropy::Lz4 => packed.saturating_mul(255),
            // The shortest block is a header and one byte, which it repeats.
            Entropy::ZstdFast | Entropy::Zstd1 => {
                (packed / ZSTD_SHORTEST_BLOCK + 1).saturating_mul(ZSTD_BLOCK)
            }
        }
    }

    /// Packs bytes into `out`, which has [`Entropy::max_len`]; gives how many they have become.
    pub(crate) fn pack(self, bytes: &[u8], out: &mut [u8], packers: &mut Packers) -> usize {
        match self {
            Entropy::None => {
                out[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
            Entropy::Lz4 => {
                let table = packers.lz4.get_or_insert_default();
                block::compress_into_with_table(bytes, out, table)
                    .expect("the output has room for the largest encoding")
            }
            Entropy::ZstdFast => pack_zstd(bytes, out, -5, packers),
            Entropy::Zstd1 => pack_zstd(bytes, out, 1, packers),
        }
    }

    /// Unpacks all of the bytes into `out`; gives how many they have become, which `out` has room for, or else it is an
    /// error.
    pub(crate) fn unpack(
        self,
        packed: &[u8],
        out: &mut [u8],
        packers: &mut Packers,
    ) -> Result<usize, String> {
        match self {
            Entropy::None => {
                let room = out.get_mut(..packed.len()).ok_or("it is too long")?;
                room.copy_from_slice(packed);
                Ok(packed.len())
            }
            Entropy::Lz4 => block::decompress_into(packed, out).map_err(|e| e.to_string()),
            Entropy::ZstdFast | Entropy::Zstd1 => unpack_zstd(packed, out, packers),
        }
    }
}

fn pack_zstd(bytes: &[u8], out: &mut [u8], level: i32, packers: &mut Packers) -> usize {
    let context = packers.zstd_in.get_or_insert_with(CCtx::create);
    context.compress(out, bytes, level).expect("the output has room for the largest encoding")
}

fn unpack_zstd(packed: &[u8], out: &mut [u8], packers: &mut Packers) -> Result<usize, String> {
    let reason = |code| zstd_safe::get_error_name(code).to_owned();
    // The library would skip frames without content, and append what further frames hold.
    if !packed.starts_with(&ZSTD_MAGIC) {
        return Err("it is no Zstandard frame".to_owned());
    }
    if zstd_safe::find_frame_compressed_size(packed).map_err(reason)? != packed.len() {
        return Err("something follows the Zstandard frame".to_owned());
    }
    packers.zstd_out.get_or_insert_with(DCtx::create).decompress(out, packed).map_err(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKING: [Entropy; 3] = [Entropy::Lz4, Entropy::ZstdFast, Entropy::Zstd1];

    /// Some of it repeats and some does not.
    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u32)
            .map(|i| if i % 64 < 40 { 7 } else { (i.wrapping_mul(2_654_435_761) >> 13) as u8 })
            .collect()
    }

    fn packed(entropy: Entropy, bytes: &[u8], packers: &mut Packers) -> Vec<u8> {
        let mut out = vec![0xAA; entropy.max_len(bytes.len())];
        let len = entropy.pack(bytes, &mut out, packers);
        out.truncate(len);
        out
    }

    #[test]
    fn nothing_becomes_more_than_is_said() {
        for entropy in [Entropy::Lz4, Entropy::ZstdFast, Entropy::Zstd1] {
            for len in [0, 1, 100, 70_000, 4 << 20] {
                let bytes = vec![7u8; len];
                let mut packed = vec![0; entropy.max_len(len)];
                let packed_len = entropy.pack(&bytes, &mut packed, &mut Packers::default());
                assert!(entropy.max_unpacked_len(packed_len) >= len, "{entropy:?} {len}: {packed_len}");
            }
        }
    }

    #[test]
    fn all_lengths_come_back_from_packers_that_were_used_before() {
        let mut packers = Packers::default();
        for entropy in PACKING {
            for len in [0, 1, 5, 300_000, 12, 70_000, 0, 131_073] {
                let (bytes, mut out) = (bytes(len), vec![0; len]);
                let packed = packed(entropy, &bytes, &mut packers);
                assert_eq!(entropy.unpack(&packed, &mut out, &mut packers), Ok(len), "{entropy:?}");
                assert_eq!(out, bytes, "{entropy:?} {len}");
                assert!(
                    len < 1000 || packed.len() < len * 3 / 4,
                    "{entropy:?} packs {len} to {}",
                    packed.len()
                );
            }
        }
    }

    #[test]
    fn what_does_not_pack_stays_within_the_bound() {
        let mut state = 1_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = std::iter::repeat_with(next).take(50_000).collect();
        for entropy in PACKING {
            assert!(packed(entropy, &noise, &mut Packers::default()).len() >= noise.len());
        }
    }

    #[test]
    fn no_length_overflows_the_bound() {
        for entropy in PACKING {
            for len in [usize::MAX, usize::MAX / 2, usize::MAX / 110] {
                let bound = entropy.max_len(len);
                assert!(bound >= len, "{entropy:?} {len}: {bound}");
            }
        }
    }

    #[test]
    fn only_one_whole_frame_is_taken() {
        let (mut packers, bytes) = (Packers::default(), bytes(1000));
        // A skippable frame of three bytes.
        let skippable = [0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for entropy in [Entropy::ZstdFast, Entropy::Zstd1] {
            let frame = packed(entropy, &bytes, &mut packers);
            let empty = packed(entropy, &[], &mut packers);
            let cases = [
                vec![],
                skippable.to_vec(),
                [&skippable[..], &frame].concat(),
                [&frame[..], &skippable].concat(),
                [&frame[..], &empty].concat(),
                [&frame[..], &[0]].concat(),
            ];
            for case in cases {
                let mut out = vec![0; 2 * bytes.len()];
                assert!(entropy.unpack(&case, &mut out, &mut packers).is_err(), "{case:?}");
            }
            let mut out = vec![0; bytes.len() - 1];
            assert!(entropy.unpack(&frame, &mut out, &mut packers).is_err(), "it takes more room");
        }
    }

    #[test]
    fn a_bomb_does_not_leave_its_room() {
        let (mut packers, zeros) = (Packers::default(), vec![0; 1 << 20]);
        for entropy in PACKING {
            let bomb = packed(entropy, &zeros, &mut packers);
            assert!(entropy.unpack(&bomb, &mut [0; 100], &mut packers).is_err(), "{entropy:?}");
            // A context that has seen an error works on.
            assert_eq!(entropy.unpack(&bomb, &mut vec![1; 1 << 20], &mut packers), Ok(1 << 20));
        }
    }

    #[test]
    fn damaged_data_never_panics_and_short_data_is_an_error() {
        let (mut packers, bytes) = (Packers::default(), bytes(600));
        let mut out = vec![0; bytes.len()];
        for entropy in PACKING {
            let whole = packed(entropy, &bytes, &mut packers);
            for len in 0..whole.len() {
                let result = entropy.unpack(&whole[..len], &mut out, &mut packers);
                assert_ne!(result, Ok(bytes.len()), "{entropy:?} from {len} of {} bytes", whole.len());
            }
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = entropy.unpack(&flipped, &mut out, &mut packers);
            }
        }
    }
}
