//! What tests of both ends of a link send.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Whoever waits so long waits for ever.
pub(super) const HUNG: Duration = Duration::from_secs(60);

/// So long that no system's buffers hold it.
pub(super) const FRAME_LEN: usize = 32 << 20;

pub(super) fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

pub(super) fn frame(n: u8) -> Vec<u8> {
    (0..FRAME_LEN).map(|i| (i / 7) as u8 ^ n).collect()
}
