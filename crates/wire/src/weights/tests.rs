use fastrand::Rng;

use super::*;

const WIDTHS: [Width; 4] = [Width::One, Width::Two, Width::Four, Width::Eight];

/// A kind of content, with so many elements of a width.
type Content = fn(&mut Rng, usize, usize) -> Vec<u8>;

const CONTENTS: [(&str, Content); 8] = [
    ("equal", |_, width, count| vec![0x5A; width * count]),
    ("zero", |_, width, count| vec![0; width * count]),
    ("random", |rng, width, count| (0..width * count).map(|_| rng.u8(..)).collect()),
    ("ternary", |rng, width, count| choose(rng, width, count, 3)),
    ("four", |rng, width, count| choose(rng, width, count, 4)),
    ("sixteen", |rng, width, count| choose(rng, width, count, 16)),
    ("many", |rng, width, count| choose(rng, width, count, 256)),
    ("sparse", |rng, width, count| {
        let mut bytes: Vec<u8> = (0..width * count).map(|_| rng.u8(..)).collect();
        bytes.chunks_exact_mut(width).filter(|_| rng.u8(..10) < 9).for_each(|element| element.fill(0));
        bytes
    }),
];

/// Elements of so many kinds, of which the first is zero; of more than a palette has, numbers below that.
fn choose(rng: &mut Rng, width: usize, count: usize, kinds: u32) -> Vec<u8> {
    let factor = if kinds > 256 { 1 } else { 0x9E37_79B9_7F4A_7C15 };
    let element = |kind: u32| u64::from(kind).wrapping_mul(factor).to_le_bytes();
    (0..count).flat_map(|_| element(rng.u32(..kinds))[..width].to_vec()).collect()
}

fn forms(width: Width) -> [Form; 3] {
    [Form::Shuffle(width), Form::Palette(width), Form::Sparse(width)]
}

/// The piece in a form that would not be chosen for it, where it has that form.
fn pack_as(form: Form, piece: &[u8]) -> Option<Vec<u8>> {
    let mut packer = Packer::new(form.width());
    packer.pack_as(form, piece).then(|| packer.packed.as_bytes().to_vec())
}

#[test]
fn every_form_gives_back_what_it_was_made_of() {
    let (mut rng, mut unpacker, mut kept) = (Rng::with_seed(1), Unpacker::default(), [0; 4]);
    for width in WIDTHS {
        for count in [1, 2, 4, 5, 6, 63, 64, 65, 1023, PIECE_LEN / 8] {
            for (name, content) in CONTENTS {
                let piece = content(&mut rng, width.bytes(), count);
                for (form, kept) in forms(width).into_iter().zip(&mut kept) {
                    let Some(packed) = pack_as(form, &piece) else { continue };
                    *kept += 1;
                    let mut out = vec![0xAA; piece.len()];
                    unpacker.unpack(form, &packed, &mut out).unwrap();
                    assert!(out == piece, "{form:?}, {count} of {name}");
                }
                let mut packer = Packer::new(width);
                let (form, packed) = packer.pack(&piece);
                let header = write_header(form, packed.len());
                assert_eq!(read_header(&header, piece.len()), Ok((form, packed.len())));
                let mut out = vec![0xAA; piece.len()];
                unpacker.unpack(form, packed, &mut out).unwrap();
                assert!(out == piece, "{form:?}, {count} of {name}, as chosen");
            }
        }
    }
    assert!(kept[0] == 320 && kept[1] > 200 && kept[2] == 320, "{kept:?}");
}

#[test]
fn an_empty_piece_travels_as_it_is() {
    assert_eq!(Packer::new(Width::Four).pack(&[]), (Form::Raw, &[][..]));
    assert_eq!(Unpacker::default().unpack(Form::Raw, &[], &mut []), Ok(()));
    for form in forms(Width::Four) {
        if let Some(packed) = pack_as(form, &[]) {
            assert_eq!(Unpacker::default().unpack(form, &packed, &mut []), Ok(()), "{form:?}");
        }
    }
}

/// The choice is made without trying: it must not be far from the best one.
#[test]
fn the_form_that_is_chosen_is_nearly_the_smallest() {
    let mut rng = Rng::with_seed(2);
    let mut seen = [false; 3];
    for width in [Width::Two, Width::Four, Width::Eight] {
        for count in [2048, 40_000] {
            for zeros in [0, 1, 3, 6, 12, 25, 50, 90, 99] {
                for kinds in [2, 3, 5, 16, 40, 256, 1 << 20] {
                    let mut piece = choose(&mut rng, width.bytes(), count, kinds);
                    let elements = piece.chunks_exact_mut(width.bytes());
                    elements.filter(|_| rng.u8(..100) < zeros).for_each(|element| element.fill(0));
                    let all = forms(width).map(|form| pack_as(form, &piece).map(|packed| packed.len()));
                    let least = all.iter().flatten().copied().min().unwrap().min(piece.len());
                    let mut packer = Packer::new(width);
                    let (form, packed) = packer.pack(&piece);
                    let position = forms(width).iter().position(|&other| other == form);
                    position.into_iter().for_each(|i| seen[i] = true);
                    let case = format!("{form:?} {zeros} % zeros {kinds} kinds of {count}: {all:?}");
                    assert!(packed.len() <= least + least / 10 + 64, "{} {case}", packed.len());
                }
            }
        }
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn a_weight_that_does_not_pack_is_not_tried_again_and_the_next_one_is() {
    let (mut rng, mut packer) = (Rng::with_seed(3), Packer::new(Width::Four));
    let noise: Vec<u8> = (0..4096).map(|_| rng.u8(..)).collect();
    assert_eq!(packer.pack(&[7; 4096]).0, Form::Palette(Width::Four));
    assert_eq!(packer.pack(&noise), (Form::Raw, &noise[..]));
    assert_eq!(packer.pack(&[7; 4096]).0, Form::Raw);
    packer.begin(Width::Two);
    assert_eq!(packer.pack(&[7; 4096]).0, Form::Palette(Width::Two));
}

#[test]
fn five_ternary_weights_take_a_byte() {
    let mut rng = Rng::with_seed(4);
    for (kinds, in_byte) in [(3, 5), (16, 2), (17, 1)] {
        let piece = choose(&mut rng, 4, 10_000, kinds);
        let mut packer = Packer::new(Width::Four);
        assert!(packer.arrange(Form::Palette(Width::Four), &piece));
        assert_eq!(packer.arranged.len(), 1 + 4 * kinds as usize + 10_000 / in_byte);
    }
}

/// Small pieces of all forms.
fn small() -> Vec<(Form, Vec<u8>, usize)> {
    let mut rng = Rng::with_seed(5);
    let mut pieces = vec![(Form::Raw, vec![1, 2, 3, 4], 4)];
    for width in WIDTHS {
        for (_, content) in CONTENTS {
            let piece = content(&mut rng, width.bytes(), 23);
            let packed =
                forms(width).into_iter().filter_map(|form| Some((form, pack_as(form, &piece)?, piece.len())));
            pieces.extend(packed);
        }
    }
    pieces
}

#[test]
fn truncations_are_errors_and_flipped_bits_never_panic() {
    let mut unpacker = Unpacker::default();
    for (form, packed, len) in small() {
        let mut out = vec![0; len];
        for end in 0..packed.len() {
            assert!(unpacker.unpack(form, &packed[..end], &mut out).is_err(), "{form:?} cut at {end}");
        }
        for bit in 0..packed.len() * 8 {
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = unpacker.unpack(form, &flipped, &mut out);
        }
        for other in WIDTHS.into_iter().flat_map(forms).filter(|&other| other != form) {
            let _ = unpacker.unpack(other, &packed, &mut out);
        }
        let eight = 8 * form.width().bytes();
        for wrong in [0, len.saturating_sub(eight), len + eight] {
            let result = unpacker.unpack(form, &packed, &mut vec![0; wrong]);
            assert!(result.is_err(), "{form:?} of {len} bytes gives {wrong}");
        }
    }
}

/// What lies under Zstandard, which a bit flip seldom reaches.
#[test]
fn what_no_sender_would_write_is_refused() {
    let mut unpacker = Unpacker::default();
    let mut check = |form: Form, arranged: &[u8], len: usize, reason: &str| {
        let mut packed = vec![0; Entropy::Zstd1.max_len(arranged.len())];
        let end = Entropy::Zstd1.pack(arranged, &mut packed, &mut Packers::default());
        let result = unpacker.unpack(form, &packed[..end], &mut vec![0; len]);
        let message = result.map_or_else(|error| error.to_string(), |()| "fine".to_owned());
        assert!(message.contains(reason), "{form:?} {arranged:?}: {message}");
    };
    let palette = Form::Palette(Width::One);
    check(palette, &[2, 7, 8, 9, 2 + 3 + 9 * 2, 1], 6, "fine");
    check(palette, &[], 6, "no table");
    check(palette, &[2, 7, 8], 6, "table is cut off");
    check(palette, &[2, 7, 8, 9, 5], 6, "hold the places");
    check(palette, &[2, 7, 8, 9, 5, 1, 0], 6, "hold the places");
    check(palette, &[2, 7, 8, 9, 243, 1], 6, "not in its table");
    check(palette, &[2, 7, 8, 9, 0, 3], 6, "not in its table");
    check(palette, &[1, 7, 8, 2], 5, "not in its table");
    check(palette, &[3, 6, 7, 8, 9, 0x32, 0x03], 3, "fine");
    check(palette, &[3, 6, 7, 8, 9, 0x42, 0x03], 3, "not in its table");
    check(palette, &[3, 6, 7, 8, 9, 0x32, 0x13], 3, "not in its table");
    let seventeen: Vec<u8> = (0..18).map(|i| 16 + i).collect();
    check(palette, &[&seventeen[..], &[16]].concat(), 1, "fine");
    check(palette, &[&seventeen[..], &[17]].concat(), 1, "not in its table");
    check(Form::Palette(Width::Four), &[0, 1, 2, 3, 4, 0], 6, "no elements of 4");
    check(Form::Shuffle(Width::Two), &[1, 2, 3], 4, "3 bytes where 4 belong");
    check(Form::Sparse(Width::Two), &[1, 2], 4, "bits tell of 1");
    check(Form::Sparse(Width::Two), &[7, 2, 3, 4, 5], 4, "");
    check(Form::Shuffle(Width::Two), &[0; 70_000], 4, "");
}

#[test]
fn headers_promise_no_more_than_a_piece_takes() {
    let header = |code: u8, len: u32| {
        let [a, b, c, d] = len.to_le_bytes();
        read_header(&[code, a, b, c, d], 1000)
    };
    assert_eq!(header(0, 1000), Ok((Form::Raw, 1000)));
    assert_eq!(header(0x22, 1000), Ok((Form::Palette(Width::Four), 1000)));
    for (code, len) in [(0, 999), (0, 1001), (0x22, 1001), (0x12, u32::MAX)] {
        assert!(header(code, len).is_err(), "{code} {len}");
    }
    let known = (0..=255).filter(|&code| header(code, 1000).is_ok()).count();
    assert_eq!(known, 1 + 3 * 4);
}

#[test]
fn types_have_the_width_of_their_elements() {
    for (dtype, width) in [
        (DType::F32, Width::Four),
        (DType::F16, Width::Two),
        (DType::I8, Width::One),
        (DType::Bool, Width::One),
        (DType::I64, Width::Eight),
        (DType::Complex128, Width::Eight),
        (DType::String, Width::One),
    ] {
        assert_eq!(Width::of(dtype), width, "{dtype:?}");
    }
}
