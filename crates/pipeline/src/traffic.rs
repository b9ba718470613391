//! What moves through a machine's caches while a stage waits for its turn. Used where a stage or a codec is timed alone
//! that takes turns with other work in a chain: in a loop it would find all that it needs where it left it.

/// As much as small machines have caches: more says nothing more, and takes memory that the stage may need.
const CACHES_LEN: usize = 4 << 20;

/// No cache has shorter lines.
const LINE_LEN: usize = 32;

/// So often a byte of a tensor goes through the caches on its way from a socket to the engine, or back.
const COPIES: usize = 2;

/// Bytes that are in the way.
#[derive(Default)]
pub(crate) struct Traffic(Vec<u8>);

impl Traffic {
    /// As many as fill the caches.
    pub(crate) fn of_all_caches() -> Traffic {
        Traffic(vec![0; CACHES_LEN])
    }

    /// Of tensors of so many bytes that come and go.
    pub(crate) fn of_tensors(len: usize) -> Traffic {
        Traffic(vec![0; len.saturating_mul(COPIES).min(CACHES_LEN)])
    }

    /// Has them go through the caches.
    pub(crate) fn pass(&mut self) {
        self.0.iter_mut().step_by(LINE_LEN).for_each(|byte| *byte = byte.wrapping_add(1));
        std::hint::black_box(&mut self.0);
    }
}
