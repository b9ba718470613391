//! The data plane: frames over direct TCP connections, weights over connections of their own.
//!
//! Blocking code for dedicated threads. Knows frames and greetings, not what they are for.

mod ahead;
mod frames;
mod in_use;
mod spool;
mod tcp;
#[cfg(test)]
mod test_streams;
mod watch;
pub(crate) mod weights;
mod writer;

pub(crate) use ahead::Inlet;
pub use ahead::{Arrival, Source};
pub(crate) use frames::check_sizes;
pub use frames::{Checksums, FrameReader, ReceiveError, Received, Timing};
pub(crate) use in_use::InUse;
pub use spool::Sink;
pub(crate) use spool::{Outlet, frame_len};
pub use tcp::{GREETING_TIMEOUT, Timeouts, connect, greet, tune, welcome};
pub(crate) use tcp::{read_message, write_message};
pub use watch::Spent;
pub(crate) use watch::{Total, Watch};
pub use weights::Shipped;
pub use writer::{FrameWriter, Sent};
