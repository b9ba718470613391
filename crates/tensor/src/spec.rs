//! What a model says about a tensor before it exists: name, element type, sizes that may be open.

use crate::{DType, Shape, TensorView};

/// One dimension of a [`TensorSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A size the model fixes.
    Fixed(usize),
    /// A size that each item chooses; equal names within one item mean equal sizes.
    Symbol(String),
    /// A size about which the model says nothing.
    Unknown,
}

/// Name, element type and sizes of a model's input or output, or of a tensor live across a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name in the graph.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions; `None` when even the rank is open.
    pub dims: Option<Vec<Dim>>,
}

/// A tensor that does not fit its [`TensorSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The element type differs.
    #[error("tensor `{name}` must be {expected}, not {found}")]
    DType {
        /// The tensor.
        name: String,
        /// What the model declares.
        expected: DType,
        /// What was given.
        found: DType,
    },
    /// The rank or a fixed dimension differs.
    #[error("tensor `{name}` must have shape {expected}, not {found}")]
    Shape {
        /// The tensor.
        name: String,
        /// What the model declares.
        expected: String,
        /// What was given.
        found: Shape,
    },
}

impl TensorSpec {
    /// A spec with every dimension fixed.
    pub fn fixed(name: &str, dtype: DType, shape: Shape) -> TensorSpec {
        let dims = shape.dims().iter().map(|&d| Dim::Fixed(d)).collect();
        TensorSpec { name: name.to_owned(), dtype, dims: Some(dims) }
    }

    /// The shape, when every dimension is fixed.
    pub fn fixed_shape(&self) -> Option<Shape> {
        let dims = self.dims.as_ref()?;
        let sizes: Option<Vec<usize>> = dims
            .iter()
            .map(|d| match d {
                Dim::Fixed(n) => Some(*n),
                Dim::Symbol(_) | Dim::Unknown => None,
            })
            .collect();
        Shape::new(&sizes?)
    }

    /// Whether a tensor of this type and shape may stand for the spec.
    pub fn check(&self, dtype: DType, shape: Shape) -> Result<(), SpecError> {
        if dtype != self.dtype {
            return Err(SpecError::DType { name: self.name.clone(), expected: self.dtype, found: dtype });
        }
        let Some(dims) = &self.dims else { return Ok(()) };
        let fits = dims.len() == shape.rank()
            && dims.iter().zip(shape.dims()).all(|(dim, &size)| match dim {
                Dim::Fixed(n) => *n == size,
                Dim::Symbol(_) | Dim::Unknown => true,
            });
        if fits {
            return Ok(());
        }
        Err(SpecError::Shape { name: self.name.clone(), expected: self.shape_text(), found: shape })
    }

    /// [`TensorSpec::check`] for a tensor at hand.
    pub fn check_tensor(&self, tensor: &TensorView<'_>) -> Result<(), SpecError> {
        self.check(tensor.dtype(), tensor.shape())
    }

    /// The shape for people: `1x3x224x224`, `batch x128`, `?` where nothing is known.
    pub fn shape_text(&self) -> String {
        let Some(dims) = &self.dims else { return "of any rank".to_owned() };
        if dims.is_empty() {
            return "scalar".to_owned();
        }
        let parts: Vec<String> = dims.iter().map(Dim::to_string).collect();
        parts.join("x")
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => write!(f, "<{name}>"),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

impl std::fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({} {})", self.name, self.dtype, self.shape_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_type_rank_and_fixed_sizes() {
        let spec = TensorSpec {
            name: "x".into(),
            dtype: DType::F32,
            dims: Some(vec![Dim::Symbol("batch".into()), Dim::Fixed(3), Dim::Unknown]),
        };
        assert_eq!(spec.check(DType::F32, Shape::from([7, 3, 9])), Ok(()));
        for (dtype, shape, message) in [
            (DType::I64, Shape::from([7, 3, 9]), "tensor `x` must be f32, not i64"),
            (DType::F32, Shape::from([7, 4, 9]), "tensor `x` must have shape <batch>x3x?, not 7x4x9"),
            (DType::F32, Shape::from([3, 9]), "tensor `x` must have shape <batch>x3x?, not 3x9"),
        ] {
            assert_eq!(spec.check(dtype, shape).unwrap_err().to_string(), message);
        }
        assert_eq!(spec.fixed_shape(), None);
        assert_eq!(
            TensorSpec::fixed("y", DType::U8, Shape::from([2, 2])).fixed_shape(),
            Some(Shape::from([2, 2]))
        );
    }
}
