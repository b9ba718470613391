//! Values as ZFP blocks (Lindstrom 2014, <https://zfp.io>): what the paper's system sends.
//!
//! The stream is the one of the C library without its header: 64-bit words, as many as the blocks take. ZFP sees the
//! tensor as an array of one to four dimensions and pads each to a multiple of 4, so thin tensors grow: DEFER gave it
//! arrays of 1 x height x width x channels, which makes four of one. Streams that end early or go on are errors.

use tensor::{Buffer, Shape, TensorView};
use zfp_rs::{
    STREAM_WORD_BYTES, ZfpBitStreamRef, ZfpBitStreamRefMut, ZfpConfig, ZfpDimensionality, ZfpField,
    ZfpFieldMut, ZfpScalarType, ZfpStreamAlignment,
};

use super::EncodeError;

/// ZFP: as which array it sees a tensor, and what it may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zfp {
    /// The array.
    pub view: ZfpView,
    /// The loss.
    pub mode: ZfpMode,
}

/// As which array ZFP sees a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZfpView {
    /// Its own dimensions; of more than four, all but the last three are one.
    Own,
    /// One dimension.
    Line,
    /// Two dimensions: the last one, and all others as one.
    Rows,
}

/// What ZFP may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZfpMode {
    /// Nothing, not even of infinities and NaN.
    Reversible,
    /// Two to this power, -120 at least, added or taken away from each value, as far as `f32` of a block's largest can
    /// tell.
    Tolerance(i8),
    /// What does not fit into so many bits a value, 32 at most. Blocks of 4 values take 9 bits at least.
    Rate(u8),
}

/// The most bits a value: those of `f32`.
pub(super) const MAX_RATE: u8 = 32;

/// The least power of two that is a tolerance: the lossy modes give back blocks of smaller values as zeros, as the step
/// of their integers is none of `f32`.
pub(super) const LEAST_TOLERANCE: i8 = -120;

/// Lossy modes take values below this only. Blocks decode to less than four times their largest value, so nothing
/// becomes infinite.
const LOSSY_LIMIT: f32 = f32::from_bits(0x7E80_0000);

/// Elements whose blocks can be summed up without a wrap: a block holds 256, one of which may be the tensor's, and
/// takes some bytes for each.
const MOST_ELEMENTS: usize = 1 << 40;

impl Zfp {
    /// The most bytes that a tensor of a shape becomes.
    pub(super) fn max_len(self, shape: Shape) -> usize {
        // In no memory, and beyond what the sum of the blocks is made for.
        if shape.elements().is_none_or(|elements| elements > MOST_ELEMENTS) {
            return usize::MAX;
        }
        match self.dims(shape) {
            Some(dims) => self.config(dims).maximum_size(ZfpScalarType::F32, dims).unwrap_or(usize::MAX),
            None => 0,
        }
    }

    /// Encodes `f32` into `out`, which has [`Zfp::max_len`] and is aligned to words; gives how many bytes it takes.
    pub(super) fn encode(self, tensor: TensorView<'_>, out: &mut [u8]) -> Result<usize, EncodeError> {
        let Some(dims) = self.dims(tensor.shape()) else { return Ok(0) };
        let values = tensor.as_slice::<f32>().expect("f32 in memory form is aligned");
        // NaN is not below either.
        if self.mode != ZfpMode::Reversible && !values.iter().all(|value| value.abs() < LOSSY_LIMIT) {
            return Err(EncodeError::OutOfRange);
        }
        let field = ZfpField::new(values, dims).expect("the dimensions are those of the tensor");
        let mut stream = ZfpBitStreamRefMut::from_bytes(out).expect("the output is aligned");
        Ok(stream.compress(&self.config(dims), &field).expect("the output has room for the largest encoding"))
    }

    /// Decodes into `f32` in memory form: fills `out`. Both rooms are scratch memory: data from a peer and its place
    /// need not be aligned.
    pub(super) fn decode(
        self,
        bytes: &[u8],
        shape: Shape,
        out: &mut [u8],
        [words, values]: [&mut Buffer; 2],
    ) -> Result<(), String> {
        let Some(dims) = self.dims(shape) else {
            return if bytes.is_empty() { Ok(()) } else { Err("it holds more than no value".to_owned()) };
        };
        if !bytes.len().is_multiple_of(STREAM_WORD_BYTES) {
            return Err(format!("{} bytes are no whole words", bytes.len()));
        }
        words.resize(bytes.len());
        words.as_mut_bytes().copy_from_slice(bytes);
        values.resize(out.len());
        let mut field = ZfpFieldMut::new(bytemuck::cast_slice_mut::<u8, f32>(values.as_mut_bytes()), dims)
            .expect("the dimensions are those of the tensor");
        let mut stream = ZfpBitStreamRef::from_bytes(words.as_bytes()).expect("buffers are aligned");
        let read = stream.decompress(&self.config(dims), &mut field).map_err(|e| e.to_string())?;
        if read != bytes.len() {
            return Err(format!("its blocks take {read} of {} bytes", bytes.len()));
        }
        out.copy_from_slice(values.as_bytes());
        Ok(())
    }

    /// The array, innermost dimension first and zero beyond the last; none of nothing.
    fn dims(self, shape: Shape) -> Option<[usize; 4]> {
        let elements = shape.elements().filter(|&elements| elements > 0)?;
        let own = shape.dims();
        Some(match (self.view, own) {
            (ZfpView::Line, _) | (_, []) => [elements, 0, 0, 0],
            (ZfpView::Rows, [.., last]) => [*last, elements / last, 0, 0],
            (ZfpView::Own, [outer @ .., z, y, x]) if outer.len() > 1 => [*x, *y, *z, outer.iter().product()],
            (ZfpView::Own, own) => {
                let mut dims = [0; 4];
                own.iter().rev().zip(&mut dims).for_each(|(&own, dim)| *dim = own);
                dims
            }
        })
    }

    fn config(self, dims: [usize; 4]) -> ZfpConfig {
        match self.mode {
            ZfpMode::Reversible => ZfpConfig::reversible(),
            ZfpMode::Tolerance(power) => ZfpConfig::fixed_accuracy(2f64.powi(power.into())),
            ZfpMode::Rate(bits) => ZfpConfig::fixed_rate(
                bits.clamp(1, MAX_RATE).into(),
                ZfpScalarType::F32,
                match dims {
                    [_, 0, ..] => ZfpDimensionality::D1,
                    [_, _, 0, _] => ZfpDimensionality::D2,
                    [_, _, _, 0] => ZfpDimensionality::D3,
                    _ => ZfpDimensionality::D4,
                },
                ZfpStreamAlignment::Unaligned,
            )
            .expect("a block of so many bits exists"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use tensor::{DType, Tensor};

    const VIEWS: [ZfpView; 3] = [ZfpView::Own, ZfpView::Line, ZfpView::Rows];

    fn shapes() -> Vec<Shape> {
        let dims: [&[usize]; 9] = [
            &[],
            &[7],
            &[5, 9],
            &[3, 1, 6],
            &[1, 5, 8, 3],
            &[2, 1, 3, 4, 5],
            &[2, 2, 1, 2, 2, 3],
            &[4, 0, 3],
            &[1, 1, 1, 1],
        ];
        dims.map(|dims| Shape::new(dims).unwrap()).to_vec()
    }

    /// Eighths that other programs can make without rounding.
    fn tensor(shape: Shape) -> Tensor {
        let values: Vec<f32> =
            (0..shape.elements().unwrap()).map(|i| (i * 37 % 101) as f32 / 8.0 - 3.0).collect();
        Tensor::from_slice(shape, &values).unwrap()
    }

    fn encoded(zfp: Zfp, tensor: &Tensor) -> Result<Vec<u8>, EncodeError> {
        // Of what was there before, nothing may be left.
        let mut out = Buffer::zeroed(zfp.max_len(tensor.shape()));
        out.as_mut_bytes().fill(0xAA);
        let len = zfp.encode(tensor.view(), out.as_mut_bytes())?;
        Ok(out.as_bytes()[..len].to_vec())
    }

    fn decoded(zfp: Zfp, bytes: &[u8], shape: Shape) -> Result<Tensor, String> {
        let mut out = Tensor::zeros(DType::F32, shape).unwrap().into_buffer();
        let [mut words, mut values] = [Buffer::copy_of(&[0xAA; 99]), Buffer::copy_of(&[0xAA; 99])];
        zfp.decode(bytes, shape, out.as_mut_bytes(), [&mut words, &mut values])?;
        Ok(Tensor::from_buffer(DType::F32, shape, out).unwrap())
    }

    #[test]
    fn reversible_gives_back_every_bit() {
        let bits =
            [0, 1 << 31, 1, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7F80_0001, 0xFFFF_FFFF, 0x7F7F_FFFF];
        for (shape, view) in shapes().into_iter().flat_map(|shape| VIEWS.map(|view| (shape, view))) {
            let zfp = Zfp { view, mode: ZfpMode::Reversible };
            let odd: Vec<f32> =
                (0..shape.elements().unwrap()).map(|i| f32::from_bits(bits[i * 7 % bits.len()])).collect();
            for tensor in [tensor(shape), Tensor::from_slice(shape, &odd).unwrap()] {
                let back = decoded(zfp, &encoded(zfp, &tensor).unwrap(), shape).unwrap();
                assert_eq!(back.bytes(), tensor.bytes(), "{view:?} of {shape}");
            }
        }
    }

    #[test]
    fn a_tolerance_is_kept() {
        for (shape, view) in shapes().into_iter().flat_map(|shape| VIEWS.map(|view| (shape, view))) {
            for power in [-10, -7, 0] {
                let (zfp, tensor) = (Zfp { view, mode: ZfpMode::Tolerance(power) }, tensor(shape));
                let back = decoded(zfp, &encoded(zfp, &tensor).unwrap(), shape).unwrap();
                let pairs = tensor.as_slice::<f32>().unwrap().iter().zip(back.as_slice::<f32>().unwrap());
                for (sent, got) in pairs {
                    assert!(
                        (sent - got).abs() <= 2f32.powi(power.into()),
                        "{zfp:?} {shape}: {got} for {sent}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_tolerance_is_kept_of_values_that_are_smaller() {
        let power = LEAST_TOLERANCE;
        for exponent in -149..=-100 {
            let values = [1.0, -0.7, 0.3, 0.0, -0.999].map(|v| (v * 2f64.powi(exponent)) as f32);
            for (shape, view) in
                [(Shape::from([5]), ZfpView::Line), (Shape::from([5, 1, 1, 1]), ZfpView::Own)]
            {
                let tensor = Tensor::from_slice(shape, &values).unwrap();
                let zfp = Zfp { view, mode: ZfpMode::Tolerance(power) };
                let back = decoded(zfp, &encoded(zfp, &tensor).unwrap(), shape).unwrap();
                for (sent, got) in values.iter().zip(back.as_slice::<f32>().unwrap()) {
                    assert!((sent - got).abs() <= 2f32.powi(power.into()), "{view:?}: {got:e} for {sent:e}");
                }
            }
        }
    }

    #[test]
    fn a_rate_sets_the_length() {
        let shape = Shape::from([1, 8, 8, 64]);
        for (view, bits, len) in [
            (ZfpView::Line, 8, 4096),
            (ZfpView::Line, 1, 1024 * 9 / 8),
            (ZfpView::Rows, 3, 4096 * 3 / 8),
            (ZfpView::Own, 8, 4 * 4096),
            (ZfpView::Own, 32, 4 * 4 * 4096),
        ] {
            let zfp = Zfp { view, mode: ZfpMode::Rate(bits) };
            let encoded = encoded(zfp, &tensor(shape)).unwrap();
            assert_eq!(encoded.len(), len, "{zfp:?}");
            decoded(zfp, &encoded, shape).unwrap();
        }
    }

    #[test]
    fn lossy_modes_refuse_what_is_or_might_become_infinite() {
        let shape = Shape::from([3]);
        for mode in [ZfpMode::Tolerance(-7), ZfpMode::Rate(8)] {
            let zfp = Zfp { view: ZfpView::Line, mode };
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -LOSSY_LIMIT] {
                let tensor = Tensor::from_slice(shape, &[1.0, value, 2.0]).unwrap();
                assert_eq!(encoded(zfp, &tensor), Err(EncodeError::OutOfRange), "{value}");
            }
        }
    }

    #[test]
    fn the_largest_values_stay_finite() {
        let most = LOSSY_LIMIT.next_down();
        for (shape, view) in shapes().into_iter().flat_map(|shape| VIEWS.map(|view| (shape, view))) {
            for mode in [ZfpMode::Tolerance(127), ZfpMode::Tolerance(120), ZfpMode::Rate(1), ZfpMode::Rate(3)]
            {
                let zfp = Zfp { view, mode };
                let values: Vec<f32> = (0..shape.elements().unwrap())
                    .map(|i| if i * i % 7 < 3 { most } else { -most })
                    .collect();
                let bytes = encoded(zfp, &Tensor::from_slice(shape, &values).unwrap()).unwrap();
                let back = decoded(zfp, &bytes, shape).unwrap();
                assert!(
                    back.as_slice::<f32>().unwrap().iter().all(|value| value.is_finite()),
                    "{zfp:?} {shape}"
                );
            }
        }
    }

    /// What `zfpy.compress_numpy(x, write_header=False)` 1.0.1 gives for the same values.
    #[test]
    fn streams_are_those_of_the_c_library() {
        let zfp = |view, mode| Zfp { view, mode };
        for (shape, zfp, len, sum) in [
            (Shape::from([1, 5, 8, 3]), zfp(ZfpView::Own, ZfpMode::Reversible), 896, 0xC394_2056_14EB_E37C),
            (
                Shape::from([1, 5, 8, 3]),
                zfp(ZfpView::Rows, ZfpMode::Tolerance(-7)),
                296,
                0x2FA5_2E16_9D09_9304,
            ),
            (Shape::from([1, 5, 8, 3]), zfp(ZfpView::Line, ZfpMode::Rate(8)), 120, 0xF245_15A4_8D88_9512),
            (Shape::from([3, 1, 6]), zfp(ZfpView::Own, ZfpMode::Tolerance(0)), 96, 0xB627_4F36_EF33_6CFC),
            (Shape::from([2, 1, 3, 4, 5]), zfp(ZfpView::Own, ZfpMode::Rate(5)), 320, 0x43D6_77D7_4AF1_09EB),
        ] {
            let encoded = encoded(zfp, &tensor(shape)).unwrap();
            assert_eq!((encoded.len(), checksum(&encoded)), (len, sum), "{zfp:?} of {shape}");
        }
    }

    #[test]
    fn short_long_and_damaged_streams_are_errors_or_decode() {
        let shape = Shape::from([2, 3, 5]);
        let modes = [ZfpMode::Reversible, ZfpMode::Tolerance(-7), ZfpMode::Rate(8)];
        for (view, mode) in VIEWS.into_iter().flat_map(|view| modes.map(|mode| (view, mode))) {
            let zfp = Zfp { view, mode };
            let whole = encoded(zfp, &tensor(shape)).unwrap();
            for len in 0..whole.len() {
                assert!(decoded(zfp, &whole[..len], shape).is_err(), "{zfp:?} from {len} of {}", whole.len());
            }
            for more in [1, 8, 64] {
                let long = [&whole[..], &vec![0; more]].concat();
                assert!(decoded(zfp, &long, shape).is_err(), "{zfp:?} with {more} more");
            }
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = decoded(zfp, &flipped, shape);
            }
            let nothing = Shape::from([0]);
            assert!(decoded(zfp, &[], nothing).is_ok() && decoded(zfp, &[0; 8], nothing).is_err());
        }
    }

    #[test]
    fn no_shape_overflows_the_bound() {
        let max_len =
            |view, dims: &[usize]| Zfp { view, mode: ZfpMode::Reversible }.max_len(Shape::new(dims).unwrap());
        for view in VIEWS {
            for dims in [&[usize::MAX][..], &[1, 1, 1, usize::MAX / 8], &[1 << 31; 3]] {
                assert!(max_len(view, dims) > 1 << 40, "{view:?} of {dims:?}");
            }
            assert!(max_len(view, &[usize::MAX, 0]) < 1 << 40, "{view:?} of nothing");
        }
    }
}
