//! Shapes of tensors that exist: every dimension is a number.

/// The largest rank we handle. Real models stay at 6 or below; a fixed bound keeps shapes free of allocation.
pub const MAX_RANK: usize = 8;

/// The sizes of a tensor, outermost first. A scalar has rank 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    rank: u8,
    dims: [usize; MAX_RANK],
}

impl Shape {
    /// The shape of a scalar.
    pub const SCALAR: Shape = Shape { rank: 0, dims: [0; MAX_RANK] };

    /// A shape, or `None` when it has more than [`MAX_RANK`] dimensions.
    pub fn new(dims: &[usize]) -> Option<Shape> {
        let mut shape = Shape { rank: u8::try_from(dims.len()).ok()?, ..Shape::SCALAR };
        shape.dims.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(shape)
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..usize::from(self.rank)]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank.into()
    }

    /// Number of elements, `None` on overflow. A scalar has one.
    pub fn elements(&self) -> Option<usize> {
        // An empty dimension makes the tensor empty however large the others claim to be.
        if self.dims().contains(&0) {
            return Some(0);
        }
        self.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        const { assert!(N <= MAX_RANK) };
        Shape::new(&dims).expect("rank checked at compile time")
    }
}

impl std::fmt::Display for Shape {
    /// Writes `1x3x224x224`, and `scalar` for rank 0.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.rank == 0 {
            return f.write_str("scalar");
        }
        for (i, dim) in self.dims().iter().enumerate() {
            let x = if i == 0 { "" } else { "x" };
            write!(f, "{x}{dim}")?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_limits() {
        for (dims, elements) in [
            (&[][..], Some(1)),
            (&[2, 3], Some(6)),
            (&[usize::MAX, 2], None),
            (&[usize::MAX, usize::MAX, 0], Some(0)),
        ] {
            assert_eq!(Shape::new(dims).unwrap().elements(), elements, "{dims:?}");
        }
        assert_eq!(Shape::new(&[1; MAX_RANK + 1]), None);
        assert_eq!(Shape::from([1, 3, 224, 224]).to_string(), "1x3x224x224");
    }
}
