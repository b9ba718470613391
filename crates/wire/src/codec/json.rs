//! Values as JSON text, what the paper compares with: one flat array of numbers, `[1.5,2,-0.25]`.
//!
//! Every number has the fewest digits that give back the same `f32`, so nothing is lost; JSON has no word for infinity
//! or NaN, and a tensor with one is refused. Decoding takes this form and no other: no spaces, nothing nested, exactly
//! as many numbers as the plan says.

use super::EncodeError;

/// The most characters of a number and the comma or bracket after it: `-1.17549435e-38,`, and fixed notation up to 16.
const NUMBER_LEN: usize = 20;

/// The most bytes that so many values become.
pub(super) fn max_len(values: usize) -> usize {
    values.saturating_mul(NUMBER_LEN).saturating_add(2)
}

/// Encodes `f32` in memory form into `out`, which has [`max_len`]; gives how many bytes it takes.
pub(super) fn encode(values: &[u8], out: &mut [u8]) -> Result<usize, EncodeError> {
    let mut digits = zmij::Buffer::new();
    out[0] = b'[';
    let mut len = 1;
    for &value in values.as_chunks::<4>().0 {
        let value = f32::from_le_bytes(value);
        if !value.is_finite() {
            return Err(EncodeError::OutOfRange);
        }
        let text = digits.format_finite(value);
        let text = text.strip_suffix(".0").unwrap_or(text).as_bytes();
        out[len..len + text.len()].copy_from_slice(text);
        len += text.len();
        out[len] = b',';
        len += 1;
    }
    // The last comma, if there is a number, becomes the bracket.
    let end = if len > 1 { len - 1 } else { 1 };
    out[end] = b']';
    Ok(end + 1)
}

/// Decodes into `f32` in memory form: fills `out`.
pub(super) fn decode(text: &[u8], out: &mut [u8]) -> Result<(), String> {
    let out = out.as_chunks_mut::<4>().0;
    let [b'[', numbers @ .., b']'] = text else {
        return Err("it is not in brackets".to_owned());
    };
    if out.is_empty() {
        return if numbers.is_empty() { Ok(()) } else { Err("there is more than no number".to_owned()) };
    }
    let expected = out.len();
    let mut numbers = numbers.split(|&byte| byte == b',');
    for (i, out) in out.iter_mut().enumerate() {
        let number = numbers.next().ok_or_else(|| format!("{i} numbers where {expected} belong"))?;
        *out = number_of(number).ok_or_else(|| format!("number {i} is none"))?.to_le_bytes();
    }
    match numbers.next() {
        Some(_) => Err(format!("there are more than {expected} numbers")),
        None => Ok(()),
    }
}

/// The value of a JSON number, if it is one that fits.
fn number_of(text: &[u8]) -> Option<f32> {
    if !is_number(text) {
        return None;
    }
    let value: f32 = str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// Whether text is a number by JSON's grammar, of which the standard library takes more.
fn is_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, text) = digits(text);
    let (fraction, text) = match text {
        [b'.', rest @ ..] => digits(rest),
        _ => (1, text),
    };
    let (exponent, rest) = match text {
        [b'e' | b'E', b'+' | b'-', rest @ ..] | [b'e' | b'E', rest @ ..] => digits(rest),
        _ => (1, text),
    };
    whole > 0 && fraction > 0 && exponent > 0 && rest.is_empty()
}

/// How many digits text starts with, and what follows them.
fn digits(text: &[u8]) -> (usize, &[u8]) {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count, &text[count..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(values: &[f32]) -> Result<String, EncodeError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut out = vec![0xAA; max_len(values.len())];
        let len = encode(&bytes, &mut out)?;
        out.truncate(len);
        Ok(String::from_utf8(out).unwrap())
    }

    fn values_of(text: &str, count: usize) -> Result<Vec<f32>, String> {
        let mut out = vec![0xAA; 4 * count];
        decode(text.as_bytes(), &mut out)?;
        Ok(out.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect())
    }

    #[test]
    fn numbers_have_the_fewest_digits() {
        for (values, text) in [
            (&[][..], "[]"),
            (&[0.0], "[0]"),
            (&[1.5, 2.0, -0.25], "[1.5,2,-0.25]"),
            (&[-0.0, 0.1, 1e30], "[-0,0.1,1e+30]"),
        ] {
            assert_eq!(text_of(values).unwrap(), text);
            assert_eq!(values_of(text, values.len()).unwrap(), values);
        }
    }

    #[test]
    fn every_finite_value_comes_back_and_fits() {
        let edges = [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45, -0.0, 16_777_217.0, 9.999_999e15];
        let steps = (0..u32::MAX).step_by(40_503).map(f32::from_bits).filter(|value| value.is_finite());
        for value in steps.chain(edges) {
            let text = text_of(&[value]).unwrap();
            assert!(text.len() < NUMBER_LEN, "{text}");
            assert_eq!(values_of(&text, 1).unwrap()[0].to_bits(), value.to_bits(), "{text}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(text_of(&[1.0, value]), Err(EncodeError::OutOfRange));
        }
    }

    #[test]
    fn other_text_is_an_error() {
        let cases = [
            "",
            "[",
            "]",
            "[]",
            "[1]",
            "[1,2,3]",
            "[1,2",
            "1,2]",
            "[1,2]]",
            "[[1,2]",
            "[1,2],",
            "[1,2,]",
            "[,1]",
            "[1,]",
            "[1 ,2]",
            " [1,2]",
            "[1,2]\n",
            "[1;2]",
            "[1,inf]",
            "[1,NaN]",
            "[1,nan]",
            "[1,1e39]",
            "[1,+1]",
            "[1,.5]",
            "[1,5.]",
            "[1,-]",
            "[1,1e]",
            "[1,1e+]",
            "[1,1e1.5]",
            "[1,0x1]",
            "[1,1_0]",
            "[1,null]",
            "[1,\"2\"]",
        ];
        for text in cases {
            assert!(values_of(text, 2).is_err(), "{text:?}");
        }
        assert!(values_of("[0]", 0).is_err());
        assert!(values_of("", 0).is_err());
        assert!(decode(&[b'[', 0xFF, b',', b'1', b']'], &mut [0; 8]).is_err(), "not UTF-8");
    }

    #[test]
    fn short_and_damaged_text_never_panics() {
        let values = [1.5, -2e-20, 0.0, 1e9];
        let whole = text_of(&values).unwrap();
        for len in 0..whole.len() {
            assert!(values_of(&whole[..len], values.len()).is_err(), "{:?}", &whole[..len]);
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&flipped, &mut [0; 16]);
        }
    }
}
