//! Whether a JPEG file is all there. The decoder answers a photo whose end is missing with grey in place of the
//! rest, and no option of it makes it refuse.

use std::path::Path;

use anyhow::{Result, ensure};

/// Refuses a JPEG file without its end; other files are the decoder's affair.
pub(super) fn check_whole(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path)?;
    ensure!(!bytes.starts_with(b"\xff\xd8") || ends(&bytes), "the photo is cut off: its end is missing");
    Ok(())
}

/// Whether the end-of-image marker comes, outside the segments (which hold whole small photos) and with whatever
/// behind it. Inside coded data, 0xFF is followed by zero or a restart marker.
fn ends(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == 0xff) {
        rest = &rest[at + 1..];
        match rest {
            [0xd9, ..] => return true,
            // Stuffing, fill bytes, and markers without a segment.
            [0x00 | 0x01 | 0xff | 0xd0..=0xd8, ..] => {}
            [_, high, low, ..] => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(1 + len..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_looked_for_outside_segments() {
        let check = |bytes: &[u8], expected| assert_eq!(ends(bytes), expected, "{bytes:02x?}");
        check(b"\xff\xd8\xff\xd9", true);
        check(b"\xff\xd8\xff\xff\xd9 and more", true);
        check(b"\xff\xd8\xff", false);
        // The end of a small photo inside a segment is not that of the photo.
        check(b"\xff\xd8\xff\xe1\x00\x06\xff\xd8\xff\xd9", false);
        check(b"\xff\xd8\xff\xe1\x00\x06\xff\xd8\xff\xd9\xff\xda\x00\x02a\xff\x00b\xff\xd3c\xff\xd9", true);
        check(b"\xff\xd8\xff\xda\x00\x02a\xff\x00b\xff\xd3c", false);
        check(b"\xff\xd8\xff\xe1\xff\xff\xff\xd9", false);
    }
}
