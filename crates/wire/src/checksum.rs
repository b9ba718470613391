//! The checksum of frames.

/// XXH3-64 of `bytes`: runs at memory speed and finds what a network or a broken device flips. It is no
/// defence against forgery.
pub fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}
