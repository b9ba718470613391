//! Weights in fewer bytes, piece by piece. Nothing is lost.
//!
//! A piece is up to [`PIECE_LEN`] bytes of a weight. It is arranged in one of the ways of [`Form`], then packed by
//! Zstandard, or travels as it is where that does not pay. Which way is seen from its elements, not found by trying all:
//! few distinct ones become indices, many zeros become bits, anything else is shuffled. A test holds that choice against
//! the others. Called by `pipeline`. Unpacking takes no length from the data and no more memory than a piece has.

mod palette;

use tensor::{Buffer, DType};
use zstd_safe::{CCtx, CParameter};

use crate::codec::{Entropy, Filter, Layout, Packers};

/// Raw bytes of a piece at most: whole elements of every type, few enough to stay in a cache.
pub const PIECE_LEN: usize = 1 << 20;

/// Bytes before each piece: its form (u8) and its length on the wire (u32, little-endian).
pub const HEADER_LEN: usize = 1 + 4;

/// From this share of zeros on they are left out: one in so many elements.
const SPARSE_FROM: usize = 32;

/// Where all but one in so many elements are zero, leaving them out may take less than indices: both are tried.
const BOTH_FROM: usize = 4;

/// Bytes of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One, or elements that share bytes.
    One,
    /// Two.
    Two,
    /// Four.
    Four,
    /// Eight, or pairs of eight.
    Eight,
}

/// How a piece travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Raw,
    /// The first bytes of all elements, then the second ones, and so on.
    Shuffle(Width),
    /// A table of up to 256 elements, then the place in it of each, several in a byte where the table is short.
    Palette(Width),
    /// A bit for each element, then those that are not zero, shuffled.
    Sparse(Width),
}

/// Bytes that are no piece of a weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packed piece of a weight is malformed: {0}")]
pub struct PieceError(String);

/// Packs pieces, in memory that is reused from weight to weight.
pub struct Packer {
    width: Width,
    pays: bool,
    arranged: Buffer,
    packed: Buffer,
    kept: Buffer,
    zstd: CCtx<'static>,
}

/// Unpacks pieces, in memory that is reused from weight to weight.
#[derive(Default)]
pub struct Unpacker {
    arranged: Buffer,
    packers: Packers,
}

impl Packer {
    /// A packer whose first weight has elements of this width.
    pub fn new(width: Width) -> Packer {
        Packer {
            width,
            pays: true,
            arranged: Buffer::default(),
            packed: Buffer::default(),
            kept: Buffer::default(),
            zstd: hardly_matching(),
        }
    }

    /// Another weight begins, with elements of this width.
    pub fn begin(&mut self, width: Width) {
        (self.width, self.pays) = (width, true);
    }

    /// The form and the bytes in which the weight's next piece travels: a twentieth less than it has, or the piece
    /// itself. A weight with a piece that does not pack is not tried further.
    ///
    /// # Panics
    /// When the piece is longer than [`PIECE_LEN`] or has a part of an element.
    pub fn pack<'a>(&'a mut self, piece: &'a [u8]) -> (Form, &'a [u8]) {
        assert!(piece.len() <= PIECE_LEN, "a piece of {} bytes", piece.len());
        assert!(piece.len().is_multiple_of(self.width.bytes()), "a piece holds whole elements");
        if self.pays {
            let form = self.choose(piece);
            if self.packed.len() <= piece.len() / 20 * 19 {
                return (form, self.packed.as_bytes());
            }
            self.pays = false;
        }
        (Form::Raw, piece)
    }

    /// Packs a piece in the form that its elements suggest.
    fn choose(&mut self, piece: &[u8]) -> Form {
        let width = self.width;
        let (palette, sparse, shuffle) = (Form::Palette(width), Form::Sparse(width), Form::Shuffle(width));
        let (elements, zeros) = (piece.len() / width.bytes(), width.zeros(piece));
        if !self.pack_as(palette, piece) {
            let form = if zeros >= elements.div_ceil(SPARSE_FROM) { sparse } else { shuffle };
            self.pack_as(form, piece);
            return form;
        }
        if elements - zeros > elements / BOTH_FROM {
            return palette;
        }
        std::mem::swap(&mut self.packed, &mut self.kept);
        self.pack_as(sparse, piece);
        if self.packed.len() < self.kept.len() {
            return sparse;
        }
        std::mem::swap(&mut self.packed, &mut self.kept);
        palette
    }

    /// Packs a piece in this form if it has it; all but [`Form::Palette`] take any.
    fn pack_as(&mut self, form: Form, piece: &[u8]) -> bool {
        let fits = self.arrange(form, piece);
        if fits {
            let bytes = self.arranged.as_bytes();
            self.packed.resize(Entropy::Zstd1.max_len(bytes.len()));
            let len = self.zstd.compress2(self.packed.as_mut_bytes(), bytes);
            let len = len.expect("the output has room for the largest encoding");
            self.packed.resize(len);
        }
        fits
    }

    fn arrange(&mut self, form: Form, piece: &[u8]) -> bool {
        let width = form.width().bytes();
        self.arranged.resize(form.arranged_len(piece.len()));
        let out = self.arranged.as_mut_bytes();
        let len = match form.filter() {
            Some(filter) => Some(filter.apply(Layout { element: width, row: 1 }, piece, out)),
            None => {
                self.packed.resize(piece.len() / width);
                palette::encode(piece, width, self.packed.as_mut_bytes(), out)
            }
        };
        self.arranged.resize(len.unwrap_or(0));
        len.is_some()
    }
}

/// Zstandard of level 1 that looks for repetitions in few places, and for long ones only. Weights are noise of uneven
/// distribution: what repeats by chance takes more than the literals, and looking for it most of the time.
fn hardly_matching() -> CCtx<'static> {
    let mut zstd = CCtx::create();
    for parameter in [CParameter::CompressionLevel(1), CParameter::MinMatch(7), CParameter::HashLog(6)] {
        zstd.set_parameter(parameter).expect("Zstandard has these values");
    }
    zstd
}

impl Unpacker {
    /// Fills `out`, which has the piece's raw length: all of it is written and all of `packed` consumed, or an error
    /// comes back. Damage that leaves the form whole is not noticed here but by the weight's hash.
    ///
    /// # Panics
    /// When `out` is longer than [`PIECE_LEN`].
    pub fn unpack(&mut self, form: Form, packed: &[u8], out: &mut [u8]) -> Result<(), PieceError> {
        assert!(out.len() <= PIECE_LEN, "a piece of {} bytes", out.len());
        let width = form.width().bytes();
        if form == Form::Raw {
            expect(out.len(), packed.len())?;
            out.copy_from_slice(packed);
            return Ok(());
        }
        if !out.len().is_multiple_of(width) {
            return Err(PieceError(format!("{} bytes are no elements of {width}", out.len())));
        }
        self.arranged.resize(form.arranged_len(out.len()));
        let room = self.arranged.as_mut_bytes();
        let len = Entropy::Zstd1.unpack(packed, room, &mut self.packers).map_err(PieceError)?;
        let arranged = &room[..len];
        match form.filter() {
            Some(filter) => filter.undo(Layout { element: width, row: 1 }, arranged, out),
            None => palette::decode(arranged, width, out),
        }
        .map_err(PieceError)
    }
}

/// The bytes before a piece of this form and length on the wire.
///
/// # Panics
/// When it is longer than [`PIECE_LEN`]: packing makes no piece longer.
pub fn write_header(form: Form, len: usize) -> [u8; HEADER_LEN] {
    assert!(len <= PIECE_LEN, "a piece of {len} bytes");
    let [a, b, c, d] = (len as u32).to_le_bytes();
    [form.code(), a, b, c, d]
}

/// The form and the length on the wire of a piece that has `raw_len` bytes: it is never longer than that.
pub fn read_header(header: &[u8; HEADER_LEN], raw_len: usize) -> Result<(Form, usize), PieceError> {
    let [code, len @ ..] = *header;
    let form = Form::from_code(code).ok_or_else(|| PieceError(format!("form {code} is unknown")))?;
    let len = u32::from_le_bytes(len) as usize;
    match form {
        Form::Raw => expect(raw_len, len)?,
        _ if len > raw_len => return Err(PieceError(format!("{len} bytes for {raw_len}"))),
        _ => {}
    }
    Ok((form, len))
}

fn expect(expected: usize, found: usize) -> Result<(), PieceError> {
    match expected == found {
        true => Ok(()),
        false => Err(PieceError(format!("{found} bytes where {expected} belong"))),
    }
}

impl Form {
    fn code(self) -> u8 {
        let kind = match self {
            Form::Raw => return 0,
            Form::Shuffle(_) => 1,
            Form::Palette(_) => 2,
            Form::Sparse(_) => 3,
        };
        kind << 4 | self.width().bytes().ilog2() as u8
    }

    fn from_code(code: u8) -> Option<Form> {
        let width = match code & 15 {
            0 => Width::One,
            1 => Width::Two,
            2 => Width::Four,
            3 => Width::Eight,
            _ => return None,
        };
        Some(match code >> 4 {
            0 if code == 0 => Form::Raw,
            1 => Form::Shuffle(width),
            2 => Form::Palette(width),
            3 => Form::Sparse(width),
            _ => return None,
        })
    }

    fn width(self) -> Width {
        match self {
            Form::Raw => Width::One,
            Form::Shuffle(width) | Form::Palette(width) | Form::Sparse(width) => width,
        }
    }

    /// The filter that arranges it, where one does.
    fn filter(self) -> Option<Filter> {
        match self {
            Form::Raw => Some(Filter::None),
            Form::Shuffle(_) => Some(Filter::Shuffle),
            Form::Sparse(_) => Some(Filter::ZeroBitmap),
            Form::Palette(_) => None,
        }
    }

    /// The most bytes that so many raw ones become before they are packed.
    fn arranged_len(self, len: usize) -> usize {
        let element = self.width().bytes();
        match self.filter() {
            Some(filter) => filter.max_len(len, Layout { element, row: 1 }),
            None => palette::max_len(len / element, element),
        }
    }
}

impl Width {
    /// That of a type's elements; strings have none.
    pub fn of(dtype: DType) -> Width {
        match dtype.bits() {
            Some(16) => Width::Two,
            Some(32) => Width::Four,
            Some(64 | 128) => Width::Eight,
            _ => Width::One,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Width::One => 1,
            Width::Two => 2,
            Width::Four => 4,
            Width::Eight => 8,
        }
    }

    fn zeros(self, bytes: &[u8]) -> usize {
        fn count<const N: usize>(bytes: &[u8]) -> usize {
            bytes.as_chunks::<N>().0.iter().filter(|&element| *element == [0; N]).count()
        }
        match self {
            Width::One => count::<1>(bytes),
            Width::Two => count::<2>(bytes),
            Width::Four => count::<4>(bytes),
            Width::Eight => count::<8>(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
