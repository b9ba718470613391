//! A byte buffer aligned for SIMD and for every element type, reused from item to item.

use std::collections::TryReserveError;

/// Alignment of every buffer, bytes: one cache line, and the widest vector register.
const ALIGN: usize = 64;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Block([u8; ALIGN]);

/// Bytes at a 64-byte aligned address. Shrinking and growing within the capacity never reallocates.
#[derive(Clone, Default)]
pub struct Buffer {
    blocks: Vec<Block>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.resize(len);
        buffer
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.as_mut_bytes().copy_from_slice(bytes);
        buffer
    }

    /// Sets the length in bytes. Bytes that were never written are zero; others keep what they held.
    pub fn resize(&mut self, len: usize) {
        let blocks = len.div_ceil(ALIGN);
        if blocks > self.blocks.len() {
            self.blocks.resize(blocks, bytemuck::Zeroable::zeroed());
        }
        self.len = len;
    }

    /// As [`Buffer::resize`], for lengths that somebody else names: without enough memory it is an error, and the
    /// buffer is as it was.
    pub fn try_resize(&mut self, len: usize) -> Result<(), TryReserveError> {
        let more = len.div_ceil(ALIGN).saturating_sub(self.blocks.len());
        self.blocks.try_reserve_exact(more)?;
        self.resize(len);
        Ok(())
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }

    /// The bytes, to write into.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.blocks)[..self.len]
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Buffer) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_keeps_its_address_within_capacity() {
        let mut buffer = Buffer::copy_of(&[7; 200]);
        let address = buffer.as_bytes().as_ptr();
        assert_eq!(address as usize % ALIGN, 0);
        for len in [0, 1, 63, 64, 65, 200] {
            buffer.resize(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_bytes().as_ptr(), address);
        }
        assert_eq!(buffer.as_bytes(), [7; 200]);
        assert!(buffer.try_resize(1 << 60).is_err());
        assert_eq!(buffer.as_bytes(), [7; 200]);
    }
}
