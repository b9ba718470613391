//! An Ethernet interface whose other side is this process: what the kernel sends through it is read here, and what is
//! written here, the kernel receives. It goes with the process, however that ends.
//!
//! Checksums and cutting are left to whoever receives, as between the two ends of a veth: a frame is up to 64 KiB long, and
//! says in the header before it what is still to be done. That header is handed on as it is.

use std::ffi::c_short;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl, opcode};

/// Length of what comes before each frame: `struct virtio_net_hdr` of the kernel.
pub(super) const HEADER_LEN: usize = 10;

/// A flag in the first byte of the header: TCP's checksum has not been made, and nobody looks at it before a real line.
pub(super) const WITHOUT_CHECKSUM: u8 = 1;

/// The longest that a frame with its header can be.
pub(super) const MOST_LEN: usize = HEADER_LEN + 14 + (64 << 10);

/// From `linux/if_tun.h`: Ethernet, with the header and nothing else before a frame.
const TAP: c_short = 0x0002;
const NO_PACKET_INFORMATION: c_short = 0x1000;
const VNET_HEADER: c_short = 0x4000;
const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
const SET_OFFLOADS: Opcode = opcode::write::<u32>(b'T', 208);

/// What is left to the receiver: checksums, and cutting TCP over IPv4 and IPv6.
const OFFLOADS: usize = 0x01 | 0x02 | 0x04;

/// `struct ifreq` of the kernel, with flags in it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

/// Makes an interface of this name in the network namespace of the calling thread. Reading and writing do not wait.
///
/// # Errors
/// Where the kernel has no TUN/TAP driver, or does not let this process use it.
pub(super) fn make(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/net/tun")?;
    let mut request =
        Request { name: [0; 16], flags: TAP | NO_PACKET_INFORMATION | VNET_HEADER, rest: [0; 22] };
    // The name ends with a zero.
    let room = request.name.get_mut(..name.len()).filter(|room| room.len() < 16);
    room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which is 40 bytes on 64-bit systems, as `Request` is, and at most that on
    // others; it writes only into that, and `ioctl` hands it our own copy.
    unsafe { ioctl(file.as_fd(), Setter::<SET_INTERFACE, Request>::new(request)) }?;
    // SAFETY: TUNSETOFFLOAD takes a number in place of a pointer, and reads and writes no memory of ours.
    unsafe { ioctl(file.as_fd(), IntegerSetter::<SET_OFFLOADS>::new_usize(OFFLOADS)) }?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_the_kernels() {
        assert_eq!((size_of::<Request>(), std::mem::offset_of!(Request, flags)), (40, 16));
        assert_eq!((SET_INTERFACE, SET_OFFLOADS), (0x4004_54ca, 0x4004_54d0));
        let long = make("a-name-that-is-too-long");
        assert!(long.is_err());
    }
}
