//! What moves through a machine's caches while a stage waits for its turn. Used wherever something is timed alone that
//! takes turns with other work in a chain: in a loop it would find all that it needs where it left it.

/// No cache has shorter lines.
const LINE_LEN: usize = 32;

/// Bytes that are in the way.
#[derive(Default)]
pub(crate) struct Traffic(Vec<u8>);

impl Traffic {
    /// So many bytes.
    pub(crate) fn new(len: usize) -> Traffic {
        Traffic(vec![0; len])
    }

    /// Has them go through the caches.
    pub(crate) fn pass(&mut self) {
        self.0.iter_mut().step_by(LINE_LEN).for_each(|byte| *byte = byte.wrapping_add(1));
        std::hint::black_box(&mut self.0);
    }
}
