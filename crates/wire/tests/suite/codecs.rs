//! Which codecs there are, and what each promises. Fuzz targets use it, too.

use tensor::{DType, Shape, TensorView};
use wire::codec::{Zfp, ZfpMode};
use wire::{Codec, Fidelity, Values};

/// Parameters to try: axes, rates, and exponents of tolerances as they stand in a byte.
const PARAMETERS: [u8; 6] = [0, 1, 3, 17, (-7i8) as u8, (-120i8) as u8];

/// Every combination of stages, and a choice of their parameters.
pub(crate) fn all() -> Vec<Codec> {
    let valid = |code| Codec::from_code(code);
    let stages = |stage: usize| {
        (0..=u8::MAX).filter(move |&number| {
            let mut code = [0; Codec::CODE_LEN];
            code[stage] = number;
            valid(code).is_some()
        })
    };
    let values =
        (0..=u8::MAX).flat_map(|v| PARAMETERS.map(|p| [v, 0, 0, p])).filter(|&code| valid(code).is_some());
    let with_filters = values.flat_map(|[v, _, _, p]| stages(1).map(move |filter| [v, filter, 0, p]));
    let codes = with_filters.flat_map(|[v, f, _, p]| stages(2).map(move |entropy| [v, f, entropy, p]));
    codes.filter_map(valid).collect()
}

/// Those of [`all`] that tensors of a type can have.
pub(crate) fn of(dtype: DType) -> Vec<Codec> {
    let mut codecs = all();
    codecs.retain(|&codec| codec == codec.for_dtype(dtype));
    codecs
}

/// Whether a codec stands for these values. Types other than `f32` always travel as they are.
pub(crate) fn takes(codec: Codec, tensor: TensorView<'_>) -> bool {
    match codec.for_dtype(tensor.dtype()).values {
        Values::Plain | Values::Zfp(Zfp { mode: ZfpMode::Reversible, .. }) => true,
        // No number becomes infinite, and the largest keeps all bits: it is no denormal.
        Values::F16 => largest(tensor).is_none_or(|v| (2f64.powi(-14)..65520.0).contains(&v)),
        Values::Bf16 => {
            let range = 2f64.powi(-126)..2f64.powi(128) - 2f64.powi(119);
            largest(tensor).is_none_or(|v| range.contains(&v))
        }
        Values::U8 | Values::U8Axis(_) | Values::Json => numbers(tensor.bytes()).all(f32::is_finite),
        Values::Zfp(_) => numbers(tensor.bytes()).all(|value| value.abs() < 2f32.powi(126)),
    }
}

/// The largest size of a number, if one is not 0.
fn largest(tensor: TensorView<'_>) -> Option<f64> {
    let sizes = numbers(tensor.bytes()).filter(|v| v.is_finite()).map(|v| f64::from(v.abs()));
    sizes.reduce(f64::max).filter(|&largest| largest > 0.0)
}

/// Whether what came back is what the codec promises of what was sent; the first element that is not, if not.
pub(crate) fn check(codec: Codec, sent: TensorView<'_>, got: &[u8]) -> Result<(), String> {
    let codec = codec.for_dtype(sent.dtype());
    if codec.fidelity() == Fidelity::Exact {
        return if sent.bytes() == got { Ok(()) } else { Err(format!("{codec}: other bytes came back")) };
    }
    let lines = Lines::of(codec.values, sent);
    for (index, (sent, got)) in numbers(sent.bytes()).zip(numbers(got)).enumerate() {
        let kept = match codec.values {
            Values::Plain | Values::Json => sent.to_bits() == got.to_bits(),
            Values::F16 => rounded(sent, got, 11, -25),
            Values::Bf16 => rounded(sent, got, 8, -134),
            Values::U8 | Values::U8Axis(_) => lines.near(index, sent, got),
            Values::Zfp(Zfp { mode, .. }) => lines.as_block(mode, sent, got),
        };
        if !kept {
            return Err(format!("{codec}: element {index} was {sent:e}, and {got:e} came back"));
        }
    }
    Ok(())
}

/// Whether a value was rounded to nearest: so many significant bits, and half of the least step that there is.
fn rounded(sent: f32, got: f32, bits: i32, half_step: i32) -> bool {
    let (sent, got) = (f64::from(sent), f64::from(got));
    if sent.is_nan() || got.is_nan() {
        return sent.is_nan() && got.is_nan();
    }
    if sent.is_infinite() || got.is_infinite() {
        return sent == got;
    }
    let most = (sent.abs() * 2f64.powi(-bits)).max(2f64.powi(half_step));
    (sent - got).abs() <= most && sent.is_sign_negative() == got.is_sign_negative()
}

/// Least and largest value of each line of bytes.
struct Lines {
    ranges: Vec<(f64, f64)>,
    /// Elements of all axes after the one that has lines.
    inner: usize,
}

impl Lines {
    fn of(values: Values, tensor: TensorView<'_>) -> Lines {
        let (count, inner) = match values {
            Values::U8Axis(axis) => axis_of(tensor.shape(), axis.into()),
            _ => (1, usize::MAX),
        };
        let mut lines = Lines { ranges: vec![(f64::INFINITY, f64::NEG_INFINITY); count], inner };
        for (index, value) in numbers(tensor.bytes()).enumerate() {
            let line = lines.line(index);
            let (least, most) = &mut lines.ranges[line];
            (*least, *most) = (least.min(value.into()), most.max(value.into()));
        }
        lines
    }

    fn line(&self, index: usize) -> usize {
        index / self.inner % self.ranges.len()
    }

    /// Half a step and what rounding in `f32` adds; a line of one value gives exactly that.
    fn near(&self, index: usize, sent: f32, got: f32) -> bool {
        let (least, most) = self.ranges[self.line(index)];
        let largest = least.abs().max(most.abs());
        let rounding = largest * 2f64.powi(-22) + 2f64.powi(-140);
        let bound = if least == most { 0.0 } else { (most - least) / 255.0 * 0.501 + rounding };
        (f64::from(sent) - f64::from(got)).abs() <= bound
    }
}

impl Lines {
    /// What ZFP gives back: the numbers of a block have a scale in common, and one of the least that it can tell of the
    /// largest is lost in any case. A rate promises no error, only that nothing becomes infinite.
    fn as_block(&self, mode: ZfpMode, sent: f32, got: f32) -> bool {
        let (least, most) = self.ranges[0];
        let rounding = least.abs().max(most.abs()) * 2f64.powi(-20) + 2f64.powi(-140);
        let most = match mode {
            ZfpMode::Reversible => 0.0,
            ZfpMode::Tolerance(power) => 2f64.powi(power.into()) + rounding,
            ZfpMode::Rate(_) => return got.is_finite(),
        };
        (f64::from(sent) - f64::from(got)).abs() <= most
    }
}

fn axis_of(shape: Shape, axis: usize) -> (usize, usize) {
    match shape.dims().get(axis..) {
        Some([size, inner @ ..]) if shape.elements() != Some(0) => (*size, inner.iter().product()),
        _ => (1, usize::MAX),
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}
