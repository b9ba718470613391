use super::*;

/// Bytes that follow no order, a third of them zero.
fn bytes(len: usize) -> Vec<u8> {
    let mixed = (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 13);
    mixed.map(|x| if x % 3 == 0 { 0 } else { (x >> 4) as u8 }).collect()
}

fn apply(filter: Filter, layout: Layout, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0xaa; filter.max_len(bytes.len(), layout)];
    let len = filter.apply(layout, bytes, &mut out);
    out.truncate(len);
    out
}

fn undo(filter: Filter, layout: Layout, bytes: &[u8], len: usize) -> Result<Vec<u8>, String> {
    let mut out = vec![0x55; len];
    filter.undo(layout, bytes, &mut out).map(|()| out)
}

/// By the definition, one byte at a time: portable code without blocks or vectors.
fn planes(element: usize, distance: usize, bytes: &[u8]) -> Vec<u8> {
    let byte = |i: usize| match distance {
        0 => bytes[i],
        d => bytes[i].wrapping_sub(if i < d { 0 } else { bytes[i - d] }),
    };
    (0..element).flat_map(|j| (j..bytes.len()).step_by(element).map(byte)).collect()
}

const ELEMENTS: [usize; 5] = [1, 2, 4, 8, 16];
const COUNTS: [usize; 12] = [0, 1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 5000];

#[test]
fn bytes_lie_where_the_definition_puts_them() {
    for element in ELEMENTS {
        for count in COUNTS {
            let bytes = bytes(count * element);
            for row in [1, 2, 7, 16, 56, 513, usize::MAX] {
                let layout = Layout { element, row };
                assert_eq!(apply(Filter::Shuffle, layout, &bytes), planes(element, 0, &bytes));
                let distance = row.saturating_mul(element);
                assert_eq!(
                    apply(Filter::RowDelta, layout, &bytes),
                    planes(element, distance, &bytes),
                    "{layout:?}"
                );
            }
            let zero = vec![0; element];
            let kept: Vec<u8> = bytes.chunks(element).filter(|e| *e != zero).flatten().copied().collect();
            let encoded = apply(Filter::ZeroBitmap, Layout { element, row: 1 }, &bytes);
            let (bits, rest) = encoded.split_at(count.div_ceil(8));
            assert_eq!(rest, planes(element, 0, &kept));
            for (i, e) in bytes.chunks(element).enumerate() {
                assert_eq!(bits[i / 8] >> (i % 8) & 1 == 1, e != zero, "element {i} of {count}");
            }
        }
    }
}

#[test]
fn every_filter_is_undone() {
    for filter in [Filter::None, Filter::Shuffle, Filter::RowDelta, Filter::ZeroBitmap] {
        for element in ELEMENTS {
            for count in COUNTS {
                for row in [1, 2, 7, 16, 56, 513, usize::MAX] {
                    let (bytes, layout) = (bytes(count * element), Layout { element, row });
                    let there = apply(filter, layout, &bytes);
                    assert_eq!(undo(filter, layout, &there, bytes.len()), Ok(bytes), "{filter:?} {layout:?}");
                }
            }
        }
    }
}

#[test]
fn a_negative_zero_comes_back() {
    let values = [0.0f32, -0.0, 1.0, 0.0].map(f32::to_le_bytes).concat();
    let layout = Layout { element: 4, row: 4 };
    let there = apply(Filter::ZeroBitmap, layout, &values);
    assert_eq!((there[0], there.len()), (0b110, 1 + 8));
    assert_eq!(undo(Filter::ZeroBitmap, layout, &there, 16), Ok(values));
}

#[test]
fn bytes_of_another_length_are_refused() {
    for filter in [Filter::None, Filter::Shuffle, Filter::RowDelta, Filter::ZeroBitmap] {
        let layout = Layout { element: 2, row: 3 };
        let there = apply(filter, layout, &bytes(40));
        for len in 0..there.len() {
            assert!(undo(filter, layout, &there[..len], 40).is_err(), "{filter:?} {len}");
        }
        assert!(undo(filter, layout, &[&there[..], &[0, 0]].concat(), 40).is_err(), "{filter:?}");
        assert!(
            undo(filter, layout, &there, 50).is_err() && undo(filter, layout, &[], 40).is_err(),
            "{filter:?}"
        );
    }
}

#[test]
fn bits_that_tell_of_other_elements_are_refused() {
    let layout = Layout { element: 1, row: 1 };
    let good = [0b101, 0, 0b10, 1, 2, 3];
    assert_eq!(undo(Filter::ZeroBitmap, layout, &good, 18).unwrap()[17], 3);
    for (at, bits) in [(0, 0b111), (0, 0b100), (1, 0x80), (2, 0), (2, 0b100), (2, 0b1000_0000)] {
        let mut bad = good;
        bad[at] = bits;
        assert!(undo(Filter::ZeroBitmap, layout, &bad, 18).is_err(), "bits {at}: {bits:#b}");
    }
}
