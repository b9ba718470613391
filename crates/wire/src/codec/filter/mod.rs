//! Bytes in another order, or without zeros, so that they pack better. Nothing is lost.
//!
//! All filters leave planes: the first bytes of all elements, then the second ones, and so on.

mod bitmap;
mod delta;
mod planes;

/// How bytes are arranged before they are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Filter {
    /// As they are.
    #[default]
    None,
    /// The first bytes of all elements, then the second ones, and so on.
    Shuffle,
    /// The same, of each byte less the one above it: in the element a row of the last axis earlier. Pays on feature
    /// maps from about 56 values wide.
    RowDelta,
    /// A bit for each element, set if it has one that is not zero, then the elements that are not zero, shuffled.
    ZeroBitmap,
}

/// What elements lie in the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Bytes of one; it divides all of them.
    pub element: usize,
    /// Elements in a row of the last axis, at least one.
    pub row: usize,
}

impl Filter {
    /// The most bytes that so many become.
    pub(crate) fn max_len(self, len: usize, layout: Layout) -> usize {
        match self {
            Filter::None | Filter::Shuffle | Filter::RowDelta => len,
            Filter::ZeroBitmap => bitmap::bits_len(len / layout.element) + len,
        }
    }

    /// Arranges bytes in `out`, which has [`Filter::max_len`]; gives how many they have become.
    pub(crate) fn apply(self, layout: Layout, bytes: &[u8], out: &mut [u8]) -> usize {
        let Layout { element, row } = layout;
        match self {
            Filter::None => out.copy_from_slice(bytes),
            Filter::Shuffle => planes::split(bytes, element, out),
            Filter::RowDelta => delta::split(bytes, element, row.saturating_mul(element), out),
            Filter::ZeroBitmap => return bitmap::encode(bytes, element, out),
        }
        bytes.len()
    }

    /// Undoes it: fills `out`.
    pub(crate) fn undo(self, layout: Layout, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
        let Layout { element, row } = layout;
        if self == Filter::ZeroBitmap {
            return bitmap::decode(bytes, element, out);
        }
        if bytes.len() != out.len() {
            return Err(format!("{} bytes where {} belong", bytes.len(), out.len()));
        }
        match self {
            Filter::None | Filter::ZeroBitmap => out.copy_from_slice(bytes),
            Filter::Shuffle => planes::join(bytes, element, out),
            Filter::RowDelta => delta::join(bytes, element, row.saturating_mul(element), out),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
