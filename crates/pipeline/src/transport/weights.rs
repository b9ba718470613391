//! Shipping weights: one connection per node, the weights it lacks one after the other.
//!
//! After the greeting the dispatcher sends, for each weight in the order in which the node named them, its
//! hash, its length (u64, little-endian) and its bytes. The node answers once, when all are stored.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use wire::control::{WeightEntry, WeightHash, Welcome};

use super::{read_message, write_message};

const ENTRY_LEN: usize = 32 + 8;

/// How long the node may take to store what it received: a slow SD card writes about 10 MB/s.
const STORE_TIMEOUT: Duration = Duration::from_secs(120);

/// Sends `weights` and waits until the node has stored them. `sent` hears of every piece, in bytes.
pub(crate) fn send<'a>(
    stream: &mut TcpStream,
    weights: impl Iterator<Item = (WeightHash, &'a [u8])>,
    sent: &dyn Fn(u64),
) -> io::Result<()> {
    /// Pieces between two reports of progress, bytes.
    const PIECE_LEN: usize = 1 << 20;
    for (hash, bytes) in weights {
        let mut entry = [0; ENTRY_LEN];
        entry[..32].copy_from_slice(&hash);
        entry[32..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        stream.write_all(&entry)?;
        for piece in bytes.chunks(PIECE_LEN) {
            stream.write_all(piece)?;
            sent(piece.len() as u64);
        }
    }
    stream.set_read_timeout(Some(STORE_TIMEOUT))?;
    match read_message(stream)? {
        Welcome::Accepted => Ok(()),
        Welcome::Refused(reason) => Err(io::Error::other(reason)),
    }
}

/// Receives exactly `expected`, in order; `store` consumes the bytes of one weight.
pub(crate) fn receive(
    stream: &mut TcpStream,
    expected: &[WeightEntry],
    mut store: impl FnMut(&WeightEntry, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    for weight in expected {
        let mut entry = [0; ENTRY_LEN];
        stream.read_exact(&mut entry)?;
        if entry[..32] != weight.hash || entry[32..] != weight.len.to_le_bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a weight that was not asked for"));
        }
        store(weight, &mut stream.take(weight.len))?;
    }
    Ok(())
}

/// Tells the dispatcher how storing went.
pub(crate) fn conclude(stream: &mut TcpStream, result: &io::Result<()>) -> io::Result<()> {
    let answer = match result {
        Ok(()) => Welcome::Accepted,
        Err(e) => Welcome::Refused(e.to_string().chars().take(500).collect()),
    };
    write_message(stream, &answer)
}
