//! The data plane: frames over direct TCP connections, weights over connections of their own.
//!
//! Blocking code for dedicated threads. Knows frames and greetings, not what they are for.

mod frames;
mod in_use;
mod spool;
mod tcp;
pub(crate) mod weights;

pub(crate) use frames::check_sizes;
pub use frames::{Checksums, FrameReader, FrameWriter, ReceiveError, Received, Timing};
pub(crate) use in_use::InUse;
pub(crate) use spool::{Inlet, Outlet, frame_len};
pub use tcp::{GREETING_TIMEOUT, Timeouts, connect, greet, tune, welcome};
pub(crate) use tcp::{read_message, write_message};
pub use weights::Shipped;
