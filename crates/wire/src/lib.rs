//! Codecs, frames and control messages: bytes only, no sockets.
//!
//! Whatever arrives from a peer is hostile until it is checked here: a malformed message is an error,
//! never a panic, and no memory is reserved by a peer's word alone. Called by `pipeline`.

mod checksum;
pub mod codec;
pub mod control;
pub mod frame;
pub mod weights;

pub use checksum::checksum;
pub use codec::{Codec, CodecError, CodecList, Entropy, Fidelity, Filter, Room, Values};
pub use frame::{Descriptor, FrameError, Header, Kind};
