//! Few distinct elements: a table of them, then the place in it of each.
//!
//! One byte says how many the table has, less one. Places in a table of up to three are digits of base 243, five in a
//! byte (1.6 bits for a ternary weight, as in EC2T); of up to sixteen, two in a byte; else one. The first of a byte is
//! its lowest digit, and the digits of no element are zero.

/// The longest table.
const MOST: usize = 256;
/// The longest table for elements of one byte, which need places of less than that.
const MOST_OF_BYTES: usize = 16;
/// Where elements are looked up: four times as many as are there, so that few share one.
const SLOTS: usize = 4 * MOST;

/// The most bytes that so many elements become.
pub(super) fn max_len(elements: usize, element: usize) -> usize {
    1 + MOST * element + elements
}

/// Gives how many bytes of `out`, which has [`max_len`], are written; `None` when there are too many distinct elements,
/// or no element. `places` is room for a byte for each.
pub(super) fn encode(bytes: &[u8], element: usize, places: &mut [u8], out: &mut [u8]) -> Option<usize> {
    match element {
        1 => encode_all::<1>(bytes, places, out),
        2 => encode_all::<2>(bytes, places, out),
        4 => encode_all::<4>(bytes, places, out),
        8 => encode_all::<8>(bytes, places, out),
        other => unreachable!("no width is {other}"),
    }
}

/// Fills `out`.
pub(super) fn decode(bytes: &[u8], element: usize, out: &mut [u8]) -> Result<(), String> {
    match element {
        1 => decode_all::<1>(bytes, out),
        2 => decode_all::<2>(bytes, out),
        4 => decode_all::<4>(bytes, out),
        8 => decode_all::<8>(bytes, out),
        other => unreachable!("no width is {other}"),
    }
}

/// Places in a byte, and how many each could be, for a table of so many entries.
fn digits(entries: usize) -> (usize, usize) {
    match entries {
        0..=3 => (5, 3),
        4..=16 => (2, 16),
        _ => (1, 256),
    }
}

fn encode_all<const N: usize>(bytes: &[u8], places: &mut [u8], out: &mut [u8]) -> Option<usize> {
    let mut table = Table::new(if N == 1 { MOST_OF_BYTES } else { MOST });
    for (element, place) in bytes.as_chunks::<N>().0.iter().zip(&mut *places) {
        *place = table.place(*element)?;
    }
    let entries = &table.entries[..table.len];
    let last = u8::try_from(table.len.checked_sub(1)?).expect("there are 256 at most");
    let (head, packed) = out.split_at_mut(1 + table.len * N);
    head[0] = last;
    head[1..].copy_from_slice(entries.as_flattened());
    let (in_byte, _) = digits(table.len);
    let packed = &mut packed[..places.len().div_ceil(in_byte)];
    match in_byte {
        5 => join::<5, 3>(places, packed),
        2 => join::<2, 16>(places, packed),
        _ => packed.copy_from_slice(places),
    }
    Some(head.len() + packed.len())
}

/// Digits to bytes.
fn join<const IN_BYTE: usize, const RADIX: u8>(places: &[u8], out: &mut [u8]) {
    let byte = |digits: &[u8]| digits.iter().rev().fold(0, |byte, digit| byte * RADIX + digit);
    let (whole, rest) = places.as_chunks::<IN_BYTE>();
    whole.iter().zip(&mut *out).for_each(|(digits, out)| *out = byte(digits));
    if let Some(out) = out.get_mut(whole.len()) {
        *out = byte(rest);
    }
}

fn decode_all<const N: usize>(bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    let (&last, rest) = bytes.split_first().ok_or("it has no table")?;
    let entries = usize::from(last) + 1;
    let (table, packed) = rest.split_at_checked(entries * N).ok_or("its table is cut off")?;
    let (table, out) = (table.as_chunks().0, out.as_chunks_mut().0);
    match digits(entries).0 {
        5 => spread::<N, 5>(table, packed, out),
        2 => spread::<N, 2>(table, packed, out),
        _ => spread::<N, 1>(table, packed, out),
    }
}

/// Bytes to the elements at the places that they hold.
fn spread<const N: usize, const IN_BYTE: usize>(
    table: &[[u8; N]],
    packed: &[u8],
    out: &mut [[u8; N]],
) -> Result<(), String> {
    if packed.len() != out.len().div_ceil(IN_BYTE) {
        return Err(format!("{} bytes hold the places of {} elements", packed.len(), out.len()));
    }
    let (_, radix) = digits(table.len());
    // What each byte stands for: looked up, it takes no division and no check for each element.
    let mut known = [false; 256];
    let mut rows = [[[0; N]; IN_BYTE]; 256];
    for (byte, (row, known)) in rows.iter_mut().zip(&mut known).enumerate() {
        let mut rest = byte;
        *known = row.iter_mut().all(|element| {
            let entry = table.get(rest % radix);
            rest /= radix;
            entry.map(|&entry| *element = entry).is_some()
        }) && rest == 0;
    }
    let (whole, rest) = out.as_chunks_mut::<IN_BYTE>();
    let mut all_known = true;
    for (out, &byte) in whole.iter_mut().zip(packed) {
        *out = rows[usize::from(byte)];
        all_known &= known[usize::from(byte)];
    }
    if let Some(&byte) = packed.get(whole.len()) {
        rest.copy_from_slice(&rows[usize::from(byte)][..rest.len()]);
        all_known &= known[usize::from(byte)] && usize::from(byte) < radix.pow(rest.len() as u32);
    }
    if all_known { Ok(()) } else { Err("a place is not in its table".to_owned()) }
}

/// Distinct elements in the order in which they came.
struct Table<const N: usize> {
    entries: [[u8; N]; MOST],
    len: usize,
    most: usize,
    /// An entry's place, plus one; zero where none is.
    slots: [u16; SLOTS],
}

impl<const N: usize> Table<N> {
    fn new(most: usize) -> Table<N> {
        Table { entries: [[0; N]; MOST], len: 0, most, slots: [0; SLOTS] }
    }

    /// Its place, where it is now if it was not; `None` when the table is full.
    #[inline]
    fn place(&mut self, element: [u8; N]) -> Option<u8> {
        let mut slot = slot(element);
        loop {
            match usize::from(self.slots[slot]) {
                0 => return self.add(element, slot),
                taken if self.entries[taken - 1] == element => return Some((taken - 1) as u8),
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }

    #[cold]
    fn add(&mut self, element: [u8; N], slot: usize) -> Option<u8> {
        if self.len == self.most {
            return None;
        }
        self.entries[self.len] = element;
        self.len += 1;
        self.slots[slot] = self.len as u16;
        Some((self.len - 1) as u8)
    }
}

/// Where to look first. The multiplier is 2 to the 64 over the golden ratio, which spreads neighbours (Knuth).
fn slot<const N: usize>(element: [u8; N]) -> usize {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&element);
    (u64::from_le_bytes(bytes).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS.ilog2())) as usize
}
