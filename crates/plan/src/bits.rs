//! Sets of small numbers as words of bits, that lie in rows of a larger table.

/// The members of a set, rising.
pub(crate) fn ones(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    set.iter().enumerate().flat_map(|(word, &bits)| {
        let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|&rest| rest != 0);
        let all = std::iter::successors((bits != 0).then_some(bits), rest);
        all.map(move |bits| word * 64 + bits.trailing_zeros() as usize)
    })
}

/// Whether a number is in a set.
pub(crate) fn has(set: &[u64], bit: usize) -> bool {
    set[bit / 64] >> (bit % 64) & 1 == 1
}

/// Puts a number into a set.
pub(crate) fn add(set: &mut [u64], bit: usize) {
    set[bit / 64] |= 1 << (bit % 64);
}
