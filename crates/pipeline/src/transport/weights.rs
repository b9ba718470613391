//! Shipping weights: one connection per node, the weights it lacks one after the other.
//!
//! After the greeting the dispatcher sends, for each weight in the order in which the node named them, its
//! hash, its length (u64, little-endian) and its pieces: of each a header and the bytes in its form
//! (`wire::weights`), [`PIECE_LEN`] raw bytes but for the last. The node answers once, when all are stored.

use std::io::{self, BufWriter, Read, Write};
use std::net::TcpStream;
use std::ops::AddAssign;
use std::time::Duration;

use wire::control::{WeightEntry, WeightHash, Welcome};
use wire::weights::{Form, HEADER_LEN, PIECE_LEN, Packer, Unpacker, Width, read_header, write_header};

use super::tcp::stays_here;
use super::{read_message, write_message};

const ENTRY_LEN: usize = 32 + 8;

/// How long the node may take to store what it received: a slow SD card writes about 10 MB/s.
const STORE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the reason may take of a node that closed the connection: it was sent before.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// Weights that were shipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shipped {
    /// Their bytes.
    pub bytes: u64,
    /// What travelled of them, packed, with what says how.
    pub wire_bytes: u64,
}

impl AddAssign for Shipped {
    fn add_assign(&mut self, more: Shipped) {
        self.bytes += more.bytes;
        self.wire_bytes += more.wire_bytes;
    }
}

/// Whether weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// The bytes cross a wire.
    On,
    /// They stay in this machine's memory, where packing costs more than it saves.
    Off,
}

impl Packing {
    /// What a connection needs.
    pub(crate) fn for_link(stream: &TcpStream) -> io::Result<Packing> {
        Ok(if stays_here(stream)? { Packing::Off } else { Packing::On })
    }
}

/// A weight to send.
pub(crate) struct Outgoing<'a> {
    pub(crate) hash: WeightHash,
    pub(crate) width: Width,
    pub(crate) bytes: &'a [u8],
}

/// Sends `weights` and waits until the node has stored them. `sent` hears of every piece.
pub(crate) fn send<'a>(
    stream: &mut TcpStream,
    weights: impl Iterator<Item = Outgoing<'a>>,
    packing: Packing,
    sent: &dyn Fn(Shipped),
) -> io::Result<()> {
    let written = write(stream, weights, packing, sent);
    // A node that cannot store them says so and hears no more: the answer says more than the connection that broke.
    let timeout = if written.is_ok() { STORE_TIMEOUT } else { LAST_WORD_TIMEOUT };
    let answer = stream.set_read_timeout(Some(timeout)).and_then(|()| read_message(stream));
    match (answer, written) {
        (Ok(Welcome::Refused(reason)), _) => Err(io::Error::other(reason)),
        (_, Err(broken)) => Err(broken),
        (Ok(Welcome::Accepted), Ok(())) => Ok(()),
        (Err(e), Ok(())) => Err(e),
    }
}

fn write<'a>(
    stream: &mut TcpStream,
    weights: impl Iterator<Item = Outgoing<'a>>,
    packing: Packing,
    sent: &dyn Fn(Shipped),
) -> io::Result<()> {
    let mut packer = Packer::new(Width::One);
    // Joins headers with what follows them; what is longer goes past it.
    let mut out = BufWriter::new(&mut *stream);
    for Outgoing { hash, width, bytes } in weights {
        let mut entry = [0; ENTRY_LEN];
        entry[..32].copy_from_slice(&hash);
        entry[32..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.write_all(&entry)?;
        packer.begin(width);
        for piece in bytes.chunks(PIECE_LEN) {
            let (form, packed) = match packing {
                Packing::On => packer.pack(piece),
                Packing::Off => (Form::Raw, piece),
            };
            out.write_all(&write_header(form, packed.len()))?;
            out.write_all(packed)?;
            sent(Shipped { bytes: piece.len() as u64, wire_bytes: (HEADER_LEN + packed.len()) as u64 });
        }
    }
    out.flush()
}

/// Receives exactly `expected`, in order; `store` consumes the bytes of one weight.
pub(crate) fn receive(
    stream: &mut TcpStream,
    expected: &[WeightEntry],
    mut store: impl FnMut(&WeightEntry, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut room = Room::default();
    for weight in expected {
        let mut entry = [0; ENTRY_LEN];
        stream.read_exact(&mut entry)?;
        if entry[..32] != weight.hash || entry[32..] != weight.len.to_le_bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a weight that was not asked for"));
        }
        store(weight, &mut Pieces { stream, room: &mut room, left: weight.len, raw: 0, unread: 0 })?;
    }
    Ok(())
}

/// Memory to unpack in, reused from piece to piece.
#[derive(Default)]
struct Room {
    unpacker: Unpacker,
    packed: Vec<u8>,
    piece: Vec<u8>,
}

/// The bytes of one weight, as they arrive.
struct Pieces<'a> {
    stream: &'a mut TcpStream,
    room: &'a mut Room,
    /// Raw bytes of the pieces to come.
    left: u64,
    /// Bytes of a raw piece that are still in the stream.
    raw: usize,
    /// Bytes at the end of the unpacked piece that were not given out.
    unread: usize,
}

impl Pieces<'_> {
    fn next_piece(&mut self) -> io::Result<()> {
        let malformed = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        let raw_len = self.left.min(PIECE_LEN as u64) as usize;
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header)?;
        let (form, len) = read_header(&header, raw_len).map_err(malformed)?;
        self.left -= raw_len as u64;
        if form == Form::Raw {
            self.raw = raw_len;
            return Ok(());
        }
        let Room { unpacker, packed, piece } = &mut *self.room;
        packed.resize(len, 0);
        self.stream.read_exact(packed)?;
        piece.resize(raw_len, 0);
        unpacker.unpack(form, packed, piece).map_err(malformed)?;
        self.unread = raw_len;
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.raw == 0 && self.unread == 0 {
            if self.left == 0 {
                return Ok(0);
            }
            self.next_piece()?;
        }
        if self.raw > 0 {
            // Straight from the stream: nothing is copied on the way.
            let len = out.len().min(self.raw);
            let found = self.stream.read(&mut out[..len])?;
            if found == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.raw -= found;
            return Ok(found);
        }
        let piece = &self.room.piece;
        let found = (&piece[piece.len() - self.unread..]).read(out)?;
        self.unread -= found;
        Ok(found)
    }
}

/// Whether the connection was what failed, not what the node did with what came.
pub(crate) fn is_of_link(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock,
    };
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof | WouldBlock
    )
}

/// Tells the dispatcher how storing went, if it is still there.
pub(crate) fn conclude(stream: &mut TcpStream, result: &io::Result<()>) -> io::Result<()> {
    let answer = match result {
        Ok(()) => Welcome::Accepted,
        Err(e) if is_of_link(e) => return Ok(()),
        Err(e) => Welcome::Refused(e.to_string().chars().take(500).collect()),
    };
    write_message(stream, &answer)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn entry(bytes: &[u8]) -> WeightEntry {
        WeightEntry { hash: *blake3::hash(bytes).as_bytes(), len: bytes.len() as u64 }
    }

    /// Weights that travel in each form, of several pieces and of less than one.
    fn weights() -> Vec<Vec<u8>> {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut floats = |len: usize, value: &mut dyn FnMut(&mut fastrand::Rng) -> f32| -> Vec<u8> {
            (0..len).flat_map(|_| value(&mut rng).to_le_bytes()).collect()
        };
        let pieces = 600_000; // two and a bit
        vec![
            floats(pieces, &mut |rng| rng.f32() - 0.5),
            floats(pieces, &mut |rng| [0.0, 0.25, -0.25][rng.usize(..3)]),
            floats(pieces, &mut |rng| if rng.u8(..10) < 9 { 0.0 } else { rng.f32() }),
            floats(pieces, &mut |rng| f32::from_bits(rng.u32(..))),
            floats(PIECE_LEN / 4, &mut |rng| rng.f32()),
            floats(1024, &mut |rng| rng.f32()),
            Vec::new(),
            floats(1, &mut |_| 1.0),
        ]
    }

    #[test]
    fn weights_of_every_form_arrive() {
        let weights = weights();
        let entries: Vec<WeightEntry> = weights.iter().map(|bytes| entry(bytes)).collect();
        for packing in [Packing::On, Packing::Off] {
            let (mut near, mut far) = pair();
            let shipped = Cell::new(Shipped::default());
            let mut arrived = Vec::new();
            std::thread::scope(|scope| {
                let receiver = scope.spawn(|| {
                    let result = receive(&mut far, &entries, |_, bytes| {
                        let mut weight = Vec::new();
                        bytes.read_to_end(&mut weight)?;
                        arrived.push(weight);
                        Ok(())
                    });
                    conclude(&mut far, &result).unwrap();
                });
                let outgoing = weights.iter().map(|bytes| Outgoing {
                    hash: entry(bytes).hash,
                    width: Width::Four,
                    bytes,
                });
                let sent = |more| {
                    let mut all = shipped.get();
                    all += more;
                    shipped.set(all);
                };
                send(&mut near, outgoing, packing, &sent).unwrap();
                receiver.join().unwrap();
            });
            assert!(arrived == weights, "{packing:?}");
            let Shipped { bytes, wire_bytes } = shipped.get();
            assert_eq!(bytes, weights.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
            match packing {
                Packing::On => assert!(wire_bytes < bytes * 7 / 10, "{wire_bytes} of {bytes}"),
                Packing::Off => assert_eq!(wire_bytes, bytes + 15 * HEADER_LEN as u64),
            }
        }
    }

    #[test]
    fn a_node_that_cannot_store_them_says_why() {
        let weights = weights();
        let outgoing =
            || weights.iter().map(|bytes| Outgoing { hash: entry(bytes).hash, width: Width::Four, bytes });
        for (failure, said) in [
            (io::Error::new(io::ErrorKind::StorageFull, "no space left"), Some("no space left")),
            (io::Error::new(io::ErrorKind::ConnectionReset, "reset"), None),
        ] {
            let (mut near, mut far) = pair();
            // Closed with bytes that nobody read, as by a node that heard enough.
            conclude(&mut far, &Err(failure)).unwrap();
            drop(far);
            let error = send(&mut near, outgoing(), Packing::Off, &|_| ()).unwrap_err();
            match said {
                Some(said) => assert_eq!(error.to_string(), said),
                None => assert!(is_of_link(&error), "{error}"),
            }
        }
    }

    #[test]
    fn what_is_no_piece_is_an_error() {
        let weight = entry(&[7; 4096]);
        let begin = [&weight.hash[..], &weight.len.to_le_bytes()].concat();
        let cases: [(&str, &[u8]); 6] = [
            ("unknown", &[0x77, 0, 0, 0, 0]),
            ("where 4096 belong", &[0, 0, 1, 0, 0]),
            ("bytes for 4096", &[0x12, 1, 16, 0, 0]),
            ("malformed", &[0x12, 4, 0, 0, 0, 1, 2, 3, 4]),
            ("", &[0x12, 4, 0, 0, 0, 1]),
            ("", &[0, 0, 16, 0, 0, 1]),
        ];
        for (reason, bytes) in cases {
            let (mut near, mut far) = pair();
            near.write_all(&[&begin, bytes].concat()).unwrap();
            drop(near);
            let drain = |_: &WeightEntry, bytes: &mut dyn Read| io::copy(bytes, &mut io::sink()).map(|_| ());
            let error = receive(&mut far, &[weight], drain).unwrap_err();
            assert!(error.to_string().contains(reason), "{bytes:?}: {error}");
        }
    }
}
