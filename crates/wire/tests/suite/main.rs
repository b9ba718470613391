//! Codecs and frames from outside: every codec there is, on tensors of every kind, and on bytes that a peer made up.
//!
//! `DEFER_WRITE_VECTORS=1` writes the files that these tests otherwise read: `docs/wire-vectors/` and the seeds of
//! `fuzz/corpus/`.

use std::sync::{Mutex, PoisonError};

mod codecs;
mod corpus;
mod damage;
mod frames;
mod fuzzed;
mod pieces;
mod round_trip;
mod tensors;
mod vectors;

/// A file of test vectors, first written where that is asked for.
fn vectors_of(name: &str, written: fn() -> String) -> String {
    static WRITING: Mutex<()> = Mutex::new(());
    let file = vectors::folder().join(name);
    let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    if writing() {
        std::fs::write(&file, written()).unwrap();
    }
    std::fs::read_to_string(file).unwrap()
}

/// Whether files are to be written rather than compared.
#[allow(clippy::disallowed_methods)] // A test is told so by nothing else.
fn writing() -> bool {
    std::env::var_os("DEFER_WRITE_VECTORS").is_some()
}
