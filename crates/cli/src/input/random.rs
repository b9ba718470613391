//! Random items: the same values for the same seed, item and input, on every machine.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use half::{bf16, f16};
use tensor::{DType, Dim, Element, Shape, Tensor, TensorSpec};

/// Sizes for symbolic dimensions, from `--dim NAME=SIZE`.
pub(crate) type Dims = BTreeMap<String, usize>;

/// The largest random tensor, elements: a size given by mistake should end in a message.
const MAX_ELEMENTS: usize = 1 << 30;

/// Makes random items.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    seed: u64,
    shapes: Vec<Shape>,
}

impl Random {
    /// Settles every size of `specs`. Open first dimensions, and dimensions without a name, become 1; every other
    /// symbol must be in `dims`, and every name in `dims` must be a symbol.
    pub(crate) fn new(seed: u64, dims: &Dims, specs: &[TensorSpec]) -> Result<Random> {
        for name in dims.keys() {
            let known = specs.iter().flat_map(|s| s.dims.iter().flatten()).any(|d| is_symbol(d, name));
            ensure!(known, "the model's inputs have no dimension `{name}`: {}", super::list(specs));
        }
        let shapes = specs.iter().map(|spec| shape(spec, dims)).collect::<Result<_>>()?;
        for spec in specs {
            ensure!(
                makes(spec.dtype),
                "there are no random values for input {spec}: give the item as an .npz file"
            );
        }
        Ok(Random { seed, shapes })
    }

    /// Item `index`.
    pub(crate) fn item(&self, index: u64, specs: &[TensorSpec]) -> Result<Vec<Tensor>> {
        specs
            .iter()
            .zip(&self.shapes)
            .enumerate()
            .map(|(input, (spec, &shape))| {
                // Streams of different items and inputs start at points far apart.
                let first = |seed| Rng::with_seed(seed).u64(..);
                let stream = self.seed ^ first(index) ^ first(input as u64 ^ (1 << 63));
                values(spec, shape, &mut Rng::with_seed(stream))
            })
            .collect()
    }
}

fn is_symbol(dim: &Dim, name: &str) -> bool {
    matches!(dim, Dim::Symbol(symbol) if symbol == name)
}

fn shape(spec: &TensorSpec, dims: &Dims) -> Result<Shape> {
    let open = spec.dims.as_ref();
    let open = open.with_context(|| format!("input {spec} has any rank: give the item as an .npz file"))?;
    let sizes: Result<Vec<usize>> = open
        .iter()
        .enumerate()
        .map(|(position, dim)| match dim {
            Dim::Fixed(size) => Ok(*size),
            Dim::Unknown => Ok(1),
            Dim::Symbol(name) => match dims.get(name) {
                Some(&size) => Ok(size),
                None if position == 0 => Ok(1),
                None => bail!("dimension `{name}` of input {spec} has no size: give `--dim {name}=128`, say"),
            },
        })
        .collect();
    let shape = Shape::new(&sizes?).with_context(|| format!("input {spec} has too many dimensions"))?;
    ensure!(
        shape.elements().is_some_and(|n| n <= MAX_ELEMENTS),
        "input `{}` would have the shape {shape}, more than {MAX_ELEMENTS} elements",
        spec.name
    );
    Ok(shape)
}

fn makes(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, F32 | F64 | F16 | Bf16 | U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64 | Bool)
}

/// Floats from -1 to 1. Bytes over their whole range. Wider integers are mostly indices: 0 to 99, which every
/// vocabulary has. By their customary names, masks are all ones and segment numbers are 0 or 1.
fn values(spec: &TensorSpec, shape: Shape, random: &mut Rng) -> Result<Tensor> {
    let below = if spec.name.contains("type_ids") || spec.name.contains("segment") { 2 } else { 100 };
    let mask = spec.name.contains("mask");
    let mut index = || if mask { 1 } else { random.u64(..below) };
    match spec.dtype {
        DType::U16 => fill(shape, || index() as u16),
        DType::I16 => fill(shape, || index() as i16),
        DType::U32 => fill(shape, || index() as u32),
        DType::I32 => fill(shape, || index() as i32),
        DType::U64 => fill(shape, index),
        DType::I64 => fill(shape, || index() as i64),
        DType::U8 => fill(shape, || random.u8(..)),
        DType::I8 => fill(shape, || random.i8(..)),
        DType::F32 => fill(shape, || unit(random) as f32),
        DType::F64 => fill(shape, || unit(random)),
        DType::F16 => fill(shape, || f16::from_f64(unit(random))),
        DType::Bf16 => fill(shape, || bf16::from_f64(unit(random))),
        DType::Bool => {
            let elements = shape.elements().context("the shape overflows")?;
            let bytes: Vec<u8> = (0..elements).map(|_| u8::from(mask || random.bool())).collect();
            Ok(Tensor::from_bytes(DType::Bool, shape, &bytes)?)
        }
        dtype => bail!("there are no random values of type {dtype}"),
    }
}

fn fill<T: Element>(shape: Shape, mut value: impl FnMut() -> T) -> Result<Tensor> {
    let elements = shape.elements().context("the shape overflows")?;
    let values: Vec<T> = (0..elements).map(|_| value()).collect();
    Ok(Tensor::from_slice(shape, &values)?)
}

/// From -1 (included) to 1.
fn unit(random: &mut Rng) -> f64 {
    2.0 * random.f64() - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dtype: DType, dims: Vec<Dim>) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, dims: Some(dims) }
    }

    fn symbol(name: &str) -> Dim {
        Dim::Symbol(name.into())
    }

    #[test]
    fn items_repeat_by_seed_and_differ_otherwise() {
        let specs =
            [spec("a", DType::F32, vec![Dim::Fixed(64)]), spec("b", DType::F32, vec![Dim::Fixed(64)])];
        let item =
            |seed, index| Random::new(seed, &Dims::new(), &specs).unwrap().item(index, &specs).unwrap();
        assert_eq!(item(1, 0), item(1, 0));
        assert_ne!(item(1, 0), item(1, 1));
        assert_ne!(item(1, 0), item(2, 0));
        assert_ne!(item(1, 0)[0], item(1, 0)[1]);
        let values = item(1, 0);
        let values = values[0].as_slice::<f32>().unwrap();
        assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)));
        assert!(values.iter().any(|v| *v < -0.5) && values.iter().any(|v| *v > 0.5));
    }

    #[test]
    fn every_type_with_values_gets_some() {
        for &dtype in DType::ALL {
            let specs = [spec("x", dtype, vec![Dim::Fixed(4), Dim::Unknown])];
            match Random::new(0, &Dims::new(), &specs) {
                Ok(random) => {
                    let tensor = random.item(0, &specs).unwrap().remove(0);
                    assert_eq!((tensor.dtype(), tensor.shape()), (dtype, Shape::from([4, 1])));
                    assert!(makes(dtype));
                }
                Err(error) => assert!(error.to_string().contains("as an .npz file"), "{error}"),
            }
        }
    }

    #[test]
    fn text_inputs_are_valid() {
        let ids = |name| spec(name, DType::I64, vec![symbol("batch"), symbol("sequence")]);
        let specs = [ids("input_ids"), ids("attention_mask"), ids("token_type_ids")];
        let dims = Dims::from([("sequence".to_owned(), 64)]);
        let item = Random::new(7, &dims, &specs).unwrap().item(0, &specs).unwrap();
        let values = |i: usize| item[i].as_slice::<i64>().unwrap();
        assert_eq!(item[0].shape(), Shape::from([1, 64]));
        assert!(values(0).iter().all(|v| (0..100).contains(v)) && values(0).iter().any(|v| *v > 50));
        assert!(values(1).iter().all(|&v| v == 1));
        assert!(values(2).iter().all(|v| (0..2).contains(v)) && values(2).contains(&1));
    }

    #[test]
    fn sizes_that_are_missing_or_unknown_are_named() {
        let specs = [spec("x", DType::F32, vec![symbol("batch"), symbol("sequence")])];
        let error = |dims: &[(&str, usize)]| {
            let dims = dims.iter().map(|(n, s)| (n.to_string(), *s)).collect();
            Random::new(0, &dims, &specs).unwrap_err().to_string()
        };
        assert!(error(&[]).contains("`--dim sequence=128`"));
        assert!(error(&[("sequence", 1), ("width", 2)]).contains("no dimension `width`"));
        assert!(error(&[("sequence", 1 << 31)]).contains("more than"));
    }
}
