//! Ethernet frames as far as a relay looks into them: where they go, and where what they carry can be damaged. Pure.

use std::net::Ipv4Addr;

const ETHERNET_LEN: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const TCP: u8 = 6;

/// What a damaged packet carries at least, bytes: activations are longer, and the short messages between which a run is
/// arranged are left alone.
const LEAST_DAMAGED_LEN: usize = 512;

/// The end that a frame is for, or that it asks for; `None` when that is not said by an address of version 4.
pub(super) fn destination(frame: &[u8]) -> Option<Ipv4Addr> {
    let (ethernet, rest) = frame.split_at_checked(ETHERNET_LEN)?;
    let at = match [ethernet[12], ethernet[13]] {
        IPV4 => 16,
        ARP => 24,
        _ => return None,
    };
    Some(Ipv4Addr::from(rest.get(at..)?.first_chunk::<4>()?.to_owned()))
}

/// Damages a byte in the middle of what a TCP segment carries; `None` when it carries none or little. Its checksum stays
/// as it was.
pub(super) fn damage(frame: &mut [u8]) -> Option<()> {
    let packet =
        frame.get_mut(ETHERNET_LEN..).filter(|packet| packet.first().is_some_and(|b| b >> 4 == 4))?;
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let is_tcp = packet.get(9) == Some(&TCP);
    let segment = packet.get_mut(header_len..).filter(|_| is_tcp)?;
    let offset = usize::from(segment.get(12)? >> 4) * 4;
    let content = segment.get_mut(offset..).filter(|content| content.len() >= LEAST_DAMAGED_LEN)?;
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame that carries so many bytes of TCP.
    fn segment(content: usize) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_LEN + 24 + 32 + content];
        frame[12..14].copy_from_slice(&IPV4);
        // Six words of IP, with an option; eight of TCP.
        frame[14] = 0x46;
        frame[14 + 9] = TCP;
        frame[14 + 16..14 + 20].copy_from_slice(&[10, 0, 0, 7]);
        frame[14 + 24 + 12] = 0x80;
        frame
    }

    #[test]
    fn frames_say_where_they_go() {
        assert_eq!(destination(&segment(0)), Some(Ipv4Addr::new(10, 0, 0, 7)));
        let mut asks = vec![0; 42];
        asks[12..14].copy_from_slice(&ARP);
        asks[38..42].copy_from_slice(&[10, 0, 0, 9]);
        assert_eq!(destination(&asks), Some(Ipv4Addr::new(10, 0, 0, 9)));
        for (frame, what) in [(&asks[..41], "cut off"), (&[0; 60][..], "another protocol"), (&[], "nothing")]
        {
            assert_eq!(destination(frame), None, "{what}");
        }
    }

    #[test]
    fn only_what_a_segment_carries_is_damaged() {
        let whole = segment(1000);
        let mut damaged = whole.clone();
        assert_eq!(damage(&mut damaged), Some(()));
        let differ: Vec<usize> = (0..whole.len()).filter(|&i| whole[i] != damaged[i]).collect();
        assert_eq!(differ, [ETHERNET_LEN + 24 + 32 + 500]);

        let mut other = segment(1000);
        other[14 + 9] = 17;
        for (mut frame, what) in [
            (segment(100), "short"),
            (other, "not TCP"),
            (whole[..20].to_vec(), "cut off"),
            (vec![0x4f; 15], "no header"),
            (Vec::new(), "nothing"),
        ] {
            let before = frame.clone();
            assert_eq!(damage(&mut frame), None, "{what}");
            assert_eq!(frame, before, "{what}");
        }
    }
}
