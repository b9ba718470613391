use super::kernels;
use super::*;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Encodes and decodes; gives the lines, too.
fn round_trip(values: &[f32], lines: Lines) -> Result<(Vec<Line>, Vec<f32>), EncodeError> {
    let mut encoded = vec![0xaa; line_len(lines.count) + values.len()];
    encode(&bytes(values), lines, &mut encoded)?;
    let head = floats(&encoded[..line_len(lines.count)]);
    let mut out = vec![0; values.len() * 4];
    decode(&encoded, lines, &mut out).unwrap();
    let line = |i| Line { least: head[i], step: head[lines.count + i] };
    Ok(((0..lines.count).map(line).collect(), floats(&out)))
}

fn check(values: &[f32], lines: Lines) {
    let (found, back) = round_trip(values, lines).unwrap();
    for (i, (&sent, &got)) in values.iter().zip(&back).enumerate() {
        let Line { step, .. } = found[lines.of_element(i)];
        let last_rounding = f64::from(sent.abs()) * f64::from(f32::EPSILON) + f64::from(f32::from_bits(1));
        let most = f64::from(step) * 0.5001 + last_rounding;
        let error = (f64::from(sent) - f64::from(got)).abs();
        assert!(error <= most, "{got:e} for {sent:e}, step {step:e}, {lines:?}");
    }
}

/// Values that follow no order, from -1 to 1.
fn noise(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) as i32) as f32 / 2e9).collect()
}

#[test]
fn no_value_is_further_than_half_a_step() {
    let ranges = [
        (0.0, 1.0),
        (-3.0, 5.0),
        (0.0, f32::MAX),
        (-f32::MAX, f32::MAX),
        (-f32::MAX, 0.0),
        (f32::MAX / 3.0, f32::MAX),
        (-1e38, 3.3e38),
        (1e30, 1.000_001e30),
        (-1e-38, 1e-38),
        (0.0, 1e-40),
        (-1e-44, 3e-44),
        (0.0, f32::from_bits(1)),
        (16_777_216.0, 16_777_300.0),
    ];
    for (least, most) in ranges {
        let mut values: Vec<f32> = noise(1000)
            .into_iter()
            .map(|t| {
                (f64::from(least) + (f64::from(most) - f64::from(least)) * f64::from(t * 0.4 + 0.5)) as f32
            })
            .collect();
        values.extend([least, most]);
        check(&values, Lines::one());
        let four = [4, 3, 83].into();
        check(&values[..996], Lines::of(four, 1));
        check(&values[..996], Lines::of(four, 2));
    }
}

#[test]
fn no_value_becomes_infinite_at_the_ends_of_the_type() {
    // Ranges about as large as the type goes, where differences begin to overflow, and smaller ones.
    let ulp = f32::MAX - f32::MAX.next_down();
    for i in 0..400 {
        for least in [i as f32 * -0.05 * ulp, i as f32 * 0.9 * ulp, (i - 200) as f32 * 1.6e36] {
            check(&[least, f32::MAX], Lines::one());
            check(&[-f32::MAX, 1e38, -least], Lines::one());
        }
    }
}

#[test]
fn equal_values_come_back_as_they_were() {
    for value in [0.0, -0.0, 1.0, -7.3, f32::MAX, -f32::MAX, 1e-45, 1e-39] {
        let (lines, back) = round_trip(&[value; 37], Lines::one()).unwrap();
        assert_eq!((lines[0].step, back), (0.0, vec![value; 37]));
    }
    // After ReLU, zeros stay zeros.
    let (_, back) = round_trip(&[0.0, 0.3, -0.0, 1.7, 0.0], Lines::one()).unwrap();
    assert_eq!([back[0], back[2], back[4]].map(f32::to_bits), [0; 3]);
}

#[test]
fn each_index_of_an_axis_has_its_own_line() {
    let shape = Shape::from([2, 3, 2]);
    let values = [0.0, 1.0, 100.0, 200.0, 5.0, 5.0, 0.5, 0.0, 150.0, 120.0, 5.0, 5.0];
    let (lines, _) = round_trip(&values, Lines::of(shape, 1)).unwrap();
    assert_eq!(lines, [(0.0, 1.0), (100.0, 200.0), (5.0, 5.0)].map(|(a, b)| Line::between(a, b)));
    let (lines, _) = round_trip(&values, Lines::of(shape, 2)).unwrap();
    assert_eq!(lines, [(0.0, 150.0), (0.0, 200.0)].map(|(a, b)| Line::between(a, b)));
    let (lines, _) = round_trip(&values, Lines::of(shape, 7)).unwrap();
    assert_eq!(lines, [Line::between(0.0, 200.0)]);
}

#[test]
fn nothing_has_lines_of_nothing() {
    for shape in [Shape::from([2, 1 << 40, 0, 1 << 40]), [0, 4, 4, 1].into()] {
        assert_eq!(round_trip(&[], Lines::of(shape, 1)).unwrap(), (vec![], vec![]));
    }
    let (lines, _) = round_trip(&[], Lines::one()).unwrap();
    assert_eq!(lines, [Line { least: 0.0, step: 0.0 }]);
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 17, 99] {
            let mut values = noise(100);
            values[at] = bad;
            for lines in [Lines::one(), Lines::of([2, 5, 10].into(), 1), Lines::of([10, 10].into(), 1)] {
                assert_eq!(round_trip(&values, lines), Err(EncodeError::OutOfRange), "{bad} at {at}");
            }
        }
    }
}

#[test]
fn lines_to_no_number_are_refused() {
    let good = [(0.0, 0.0), (-5.0, 0.1), (-f32::MAX, f32::MAX / 255.0 * 1.99)];
    let bad = [
        (f32::NAN, 1.0),
        (f32::INFINITY, 1.0),
        (0.0, f32::NAN),
        (0.0, f32::INFINITY),
        (0.0, -1.0),
        (0.0, -0.0),
        (0.0, f32::MAX),
        (f32::MAX, 1e37),
        (-f32::MAX, f32::MAX / 100.0),
    ];
    let decoded = |(least, step): (f32, f32)| {
        let encoded = [&bytes(&[least, step])[..], &[0, 1, 255]].concat();
        let mut out = [0; 12];
        decode(&encoded, Lines::one(), &mut out).map(|()| floats(&out))
    };
    for line in good {
        assert!(decoded(line).unwrap().iter().all(|value| value.is_finite()), "{line:?}");
    }
    for line in bad {
        assert!(decoded(line).is_err(), "{line:?}");
    }
}

#[test]
fn vector_code_does_what_portable_code_does() {
    for (count, run, len) in
        [(1, usize::MAX, 4999), (1, usize::MAX, 13), (3, 49, 294), (7, 1, 700), (64, 1, 4992)]
    {
        for start in [0, 1] {
            let lines = Lines { count, run };
            let values = bytes(&noise(5000)[start..start + len]);
            let values = values.as_chunks::<4>().0;
            let ends = || (vec![i32::MAX.to_le_bytes(); count], vec![i32::MIN.to_le_bytes(); count]);
            let (mut fast, mut slow) = (ends(), ends());
            kernels::range(values, run, &mut fast.0, &mut fast.1);
            kernels::range_of_lines(values, run, &mut slow.0, &mut slow.1);
            assert_eq!(fast, slow);

            let found: Vec<Line> = (fast.0.iter().zip(&fast.1))
                .map(|(&l, &h)| line_of_keys(i32::from_le_bytes(l), i32::from_le_bytes(h)).unwrap())
                .collect();
            let (least, step): (Vec<_>, Vec<_>) =
                found.iter().map(|line| (line.least.to_le_bytes(), line.step.to_le_bytes())).unzip();
            let (mut fast, mut slow) = (vec![[0]; len], vec![[0]; len]);
            kernels::encode(values, run, &least, &step, &mut fast);
            kernels::on_lines(values, run, &least, &step, &mut slow, kernels::byte);
            // One element at a time is the way of wide lines.
            let line = |i: usize| found[lines.of_element(i)];
            let each: Vec<[u8; 1]> =
                (0..len).map(|i| [line(i).byte(f32::from_le_bytes(values[i]))]).collect();
            assert_eq!((&fast, &slow), (&each, &each));

            let (mut fast, mut slow) = (vec![[0; 4]; len], vec![[0; 4]; len]);
            kernels::decode(&each, run, &least, &step, &mut fast);
            kernels::on_lines(&each, run, &least, &step, &mut slow, kernels::value);
            let each: Vec<[u8; 4]> = (0..len).map(|i| line(i).value(each[i][0]).to_le_bytes()).collect();
            assert_eq!((&fast, &slow), (&each, &each));
        }
    }
}
