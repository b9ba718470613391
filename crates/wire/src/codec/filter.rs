//! Bytes in another order, or without zeros, so that they pack better. Nothing is lost.

/// How bytes are arranged before they are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Filter {
    /// As they are.
    #[default]
    None,
    /// The first bytes of all elements, then the second ones, and so on.
    Shuffle,
}

/// What elements lie in the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Bytes of one; it divides all of them.
    pub element: usize,
}

impl Filter {
    /// The most bytes that so many become.
    pub(super) fn max_len(self, len: usize, _: Layout) -> usize {
        len
    }

    /// Arranges bytes in `out`, which has [`Filter::max_len`]; gives how many they have become.
    pub(super) fn apply(self, layout: Layout, bytes: &[u8], out: &mut [u8]) -> usize {
        match self {
            Filter::None => out[..bytes.len()].copy_from_slice(bytes),
            Filter::Shuffle => {
                let elements = bytes.len() / layout.element;
                for (i, element) in bytes.chunks_exact(layout.element).enumerate() {
                    element.iter().enumerate().for_each(|(j, &byte)| out[j * elements + i] = byte);
                }
            }
        }
        bytes.len()
    }

    /// Undoes it: fills `out`.
    pub(super) fn undo(self, layout: Layout, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
        if bytes.len() != out.len() {
            return Err(format!("{} bytes where {} belong", bytes.len(), out.len()));
        }
        match self {
            Filter::None => out.copy_from_slice(bytes),
            Filter::Shuffle => {
                let elements = bytes.len() / layout.element;
                for (i, element) in out.chunks_exact_mut(layout.element).enumerate() {
                    element.iter_mut().enumerate().for_each(|(j, byte)| *byte = bytes[j * elements + i]);
                }
            }
        }
        Ok(())
    }
}
