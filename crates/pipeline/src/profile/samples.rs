//! The items that a model is measured with. Times hardly depend on what is in them; how far codecs pack what crosses a
//! cut depends on nothing else.

use half::{bf16, f16};
use tensor::{DType, Element, Tensor, TensorSpec};

use super::arbitrary_item;

/// Items, all of the same shapes; at least one.
pub(crate) struct Samples {
    pub(crate) items: Vec<Vec<Tensor>>,
    /// Whether they are inputs as the user has them, not made up.
    pub(crate) own: bool,
}

impl Samples {
    /// Of what is given those that have the first one's types and shapes and say something. Where none does, one that is
    /// made up in the same shapes.
    pub(crate) fn of(given: &[Vec<Tensor>], inputs: &[TensorSpec], own: bool) -> Samples {
        let Some(first) = given.first() else {
            return Samples { items: vec![arbitrary_item(inputs)], own: false };
        };
        let kinds = |item: &[Tensor]| item.iter().map(|t| (t.dtype(), t.shape())).collect::<Vec<_>>();
        let alike = |item: &&Vec<Tensor>| kinds(item) == kinds(first);
        let items: Vec<Vec<Tensor>> =
            given.iter().filter(alike).filter(|item| tells(item)).cloned().collect();
        match items.is_empty() {
            true => Samples { items: vec![made_up(first, inputs)], own: false },
            false => Samples { items, own },
        }
    }
}

/// Whether an item says how far such as it can be packed: not when nothing varies in it, such as in an array of zeros to
/// try a model with, nor when something is no finite number, which goes through a model and leaves nothing else.
fn tells(item: &[Tensor]) -> bool {
    let mut long = item.iter().filter(|tensor| tensor.shape().elements() != Some(1)).peekable();
    item.iter().all(is_finite) && (long.peek().is_none() || long.any(varies))
}

/// Whether no float is infinite or NaN; those of less than 16 bits are not looked at.
fn is_finite(tensor: &Tensor) -> bool {
    fn all<T: Element>(tensor: &Tensor, is_finite: fn(&T) -> bool) -> bool {
        tensor.as_slice::<T>().is_ok_and(|values| values.iter().all(is_finite))
    }
    match tensor.dtype() {
        DType::F32 => all(tensor, |value: &f32| value.is_finite()),
        DType::F64 => all(tensor, |value: &f64| value.is_finite()),
        DType::F16 => all(tensor, |value: &f16| value.is_finite()),
        DType::Bf16 => all(tensor, |value: &bf16| value.is_finite()),
        _ => true,
    }
}

/// Whether not all elements are the same.
fn varies(tensor: &Tensor) -> bool {
    let Some(len) = tensor.dtype().element_len() else { return true };
    let mut elements = tensor.bytes().chunks(len);
    elements.next().is_some_and(|first| elements.any(|element| element != first))
}

/// An item of the shapes of this one: floats and pixels made up, all else as it is, which may be an index of something.
fn made_up(item: &[Tensor], inputs: &[TensorSpec]) -> Vec<Tensor> {
    let specs = std::iter::zip(item, inputs);
    let specs = specs.map(|(tensor, spec)| TensorSpec::fixed(&spec.name, tensor.dtype(), tensor.shape()));
    let filled = arbitrary_item(&specs.collect::<Vec<_>>());
    let chosen = |(tensor, filled): (&Tensor, Tensor)| match tensor.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::Bf16 | DType::U8 => filled,
        _ => tensor.clone(),
    };
    std::iter::zip(item, filled).map(chosen).collect()
}

#[cfg(test)]
mod tests {
    use tensor::Shape;

    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_slice(Shape::from([values.len()]), values).unwrap()
    }

    #[test]
    fn what_says_nothing_of_others_is_no_sample() {
        let ids = |values: &[i64]| Tensor::from_slice(Shape::from([values.len()]), values).unwrap();
        let pixels = |values: &[u8]| Tensor::from_slice(Shape::from([values.len()]), values).unwrap();
        for (item, expected) in [
            (vec![floats(&[0.0, 1.0])], true),
            (vec![floats(&[0.0, 0.0])], false),
            (vec![floats(&[0.5, f32::NAN])], false),
            (vec![floats(&[0.5, f32::INFINITY]), ids(&[1, 2])], false),
            (vec![pixels(&[7, 7])], false),
            (vec![pixels(&[7, 8])], true),
            // A mask of ones beside what varies, and what has only one value.
            (vec![ids(&[3, 4]), ids(&[1, 1])], true),
            (vec![ids(&[1, 1]), floats(&[0.5])], false),
            (vec![floats(&[0.5])], true),
            (vec![floats(&[])], false),
            (vec![Tensor::from_slice(Shape::from([2]), &[f16::NAN, f16::ONE]).unwrap()], false),
            (vec![Tensor::from_slice(Shape::from([2]), &[f16::ZERO, f16::ONE]).unwrap()], true),
            (vec![Tensor::from_slice(Shape::from([2]), &[bf16::INFINITY, bf16::ONE]).unwrap()], false),
            (vec![Tensor::from_slice(Shape::from([2]), &[f64::NAN, 1.0]).unwrap()], false),
        ] {
            assert_eq!(tells(&item), expected, "{item:?}");
        }
    }

    #[test]
    fn what_is_made_up_cannot_be_packed() {
        for (dtype, codec) in [(DType::F32, "shuffle+zstd1"), (DType::U8, "zstd1"), (DType::F32, "lz4")] {
            let shape = Shape::from([1, 3, 64, 64]);
            let item = arbitrary_item(&[TensorSpec::fixed("x", dtype, shape)]);
            let codec: wire::Codec = codec.parse().unwrap();
            let mut room = wire::Room::default();
            let packed = codec.encode_or_wider(item[0].view(), &mut room).1.len();
            let least = if codec.to_string().starts_with("shuffle") { 0.8 } else { 0.99 };
            assert!(packed as f64 > least * item[0].bytes().len() as f64, "{dtype:?} {codec}: {packed}");
        }
    }

    #[test]
    fn samples_are_what_tells_something_or_made_up() {
        let inputs = [TensorSpec::fixed("x", DType::F32, Shape::from([3]))];
        let (good, other) = (vec![floats(&[1.0, 2.0, 3.0])], vec![floats(&[3.0, 2.0, 9.0])]);
        let (zeros, short) = (vec![floats(&[0.0; 3])], vec![floats(&[1.0, 2.0])]);
        let given = vec![zeros.clone(), good.clone(), short, other.clone()];
        let samples = Samples::of(&given, &inputs, true);
        assert_eq!((samples.items, samples.own), (vec![good, other], true));
        for given in [vec![zeros], vec![]] {
            let samples = Samples::of(&given, &inputs, true);
            assert!(!samples.own && samples.items.len() == 1 && tells(&samples.items[0]));
            assert_eq!(samples.items[0][0].shape(), Shape::from([3]));
        }
        for dtype in [DType::F64, DType::F16, DType::Bf16, DType::U8] {
            let zeros = vec![Tensor::zeros(dtype, Shape::from([3])).unwrap()];
            let inputs = [TensorSpec::fixed("x", dtype, Shape::from([3]))];
            let samples = Samples::of(&[zeros], &inputs, true);
            assert!(!samples.own && tells(&samples.items[0]), "{dtype:?}");
        }
    }
}
