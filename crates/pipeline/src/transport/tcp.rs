//! Opening data connections: socket options, greeting, limits on waiting.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::Checksums;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{SockRef, TcpKeepalive};
use wire::control::{self, Hello, MAX_HELLO_LEN, Welcome};

/// How long a new connection may take to say who it is.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Kernel buffers of a data connection, bytes each way: enough to keep a gigabit link busy over a round trip of
/// two milliseconds (or 100 Mbit/s over twenty), and small enough to stay in a core's cache: with more, the
/// same bytes cost more CPU time.
const SOCKET_BUFFER_LEN: usize = 256 << 10;

/// An idle connection is probed this often, so that a peer whose machine is gone is noticed. (Not
/// TCP_USER_TIMEOUT: it also breaks links whose peer is alive but takes that long for an item.)
const PROBE_PERIOD: Duration = Duration::from_secs(10);

/// How long opening a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one address.
    pub connect: Duration,
    /// For the peer's answer to the greeting.
    pub greeting: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { connect: Duration::from_secs(2), greeting: GREETING_TIMEOUT }
    }
}

/// Options of every data connection, on both ends.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SOCKET_BUFFER_LEN)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_PERIOD).with_interval(PROBE_PERIOD))
}

impl Checksums {
    /// What frames on a connection need: checksums, unless both ends are on this machine.
    pub fn for_link(stream: &TcpStream) -> io::Result<Checksums> {
        Ok(if stays_here(stream)? { Checksums::Off } else { Checksums::On })
    }
}

/// Whether both ends of a connection are on this machine.
pub(super) fn stays_here(stream: &TcpStream) -> io::Result<bool> {
    let (near, far) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    Ok(near == far || far.is_loopback())
}

/// Connects to the first address that answers and greets it. The error names every address tried.
pub fn connect(addresses: &[SocketAddr], hello: &Hello, timeouts: &Timeouts) -> io::Result<TcpStream> {
    let mut failures = Vec::new();
    for address in addresses {
        let opened = TcpStream::connect_timeout(address, timeouts.connect);
        match opened.and_then(|stream| greet(stream, hello, timeouts.greeting)) {
            Ok(stream) => return Ok(stream),
            Err(e) => failures.push(format!("{address}: {e}")),
        }
    }
    if failures.is_empty() {
        failures.push("the node has no data address".to_owned());
    }
    Err(io::Error::other(failures.join("; ")))
}

/// Says what the connection is for and waits to be welcomed.
pub fn greet(mut stream: TcpStream, hello: &Hello, timeout: Duration) -> io::Result<TcpStream> {
    tune(&stream)?;
    let deadline = Instant::now() + timeout;
    write_message(&mut stream, hello)?;
    match read_message(&mut Deadline { stream: &mut stream, deadline })? {
        Welcome::Accepted => {}
        Welcome::Refused(reason) => return Err(io::Error::new(io::ErrorKind::ConnectionRefused, reason)),
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Reads the greeting on a connection just accepted, within [`GREETING_TIMEOUT`].
pub fn welcome(stream: &mut TcpStream) -> io::Result<Hello> {
    tune(stream)?;
    let deadline = Instant::now() + GREETING_TIMEOUT;
    let hello = read_message(&mut Deadline { stream, deadline })?;
    stream.set_read_timeout(None)?;
    Ok(hello)
}

/// Reads until a moment, however slowly the peer drips.
struct Deadline<'a> {
    stream: &'a mut TcpStream,
    deadline: Instant,
}

impl Read for Deadline<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(out)
    }
}

/// Writes a length (u32, little-endian) and a control message.
pub(crate) fn write_message<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    let body = control::encode(message);
    assert!(body.len() <= MAX_HELLO_LEN, "greetings are short");
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    stream.write_all(&bytes)
}

/// Reads what [`write_message`] wrote; at most [`MAX_HELLO_LEN`] bytes.
pub(crate) fn read_message<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HELLO_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a greeting of this program"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    control::decode(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
