//! Holds the whole model's answers against the chain's, for `defer run --whole`.

use anyhow::{Context, Result, ensure};
use tensor::Tensor;

use super::stream::Done;
use crate::output::difference;
use crate::output::report::Comparison;

/// Answers are kept up to so many bytes; items after that are not compared.
const COMPARED_BYTES: usize = 256 << 20;

/// The chain's answers to the items that differ, to hold the whole model's against.
pub(super) struct FirstRound {
    wanted: usize,
    outputs: Vec<Vec<Tensor>>,
    kept_bytes: usize,
    compared: Comparison,
}

impl FirstRound {
    /// Keeps the answers to the first `distinct` items, or none without `compare`.
    pub(super) fn new(compare: bool, distinct: usize) -> FirstRound {
        let wanted = if compare { distinct } else { 0 };
        FirstRound { wanted, outputs: Vec::new(), kept_bytes: 0, compared: Comparison::default() }
    }

    /// Keeps an answer of the chain, as far as there is room.
    pub(super) fn keep(&mut self, done: &Done) {
        let bytes: usize = done.outputs.iter().map(|t| t.bytes().len()).sum();
        if done.index < self.wanted && self.kept_bytes + bytes <= COMPARED_BYTES {
            self.kept_bytes += bytes;
            self.outputs.push(done.outputs.clone());
        } else {
            self.wanted = self.outputs.len();
        }
    }

    /// Compares an answer of the whole model with the one kept for the same item, if there is one.
    ///
    /// # Errors
    /// The two differ in number, types or shapes of their outputs.
    pub(super) fn compare(&mut self, done: &Done) -> Result<()> {
        let Some(kept) = self.outputs.get(done.index) else { return Ok(()) };
        ensure!(
            kept.len() == done.outputs.len(),
            "the chain gave {} outputs for {}, the whole model {}",
            kept.len(),
            done.name,
            done.outputs.len()
        );
        for (chain, whole) in std::iter::zip(kept, &done.outputs) {
            let difference = difference::largest(&whole.view(), &chain.view())
                .with_context(|| format!("the chain and the whole model disagree on {}", done.name))?;
            let magnitude = difference::magnitude(&whole.view())?;
            self.compared.add(difference, magnitude);
        }
        self.compared.compared_items += 1;
        Ok(())
    }

    /// What was compared so far.
    pub(super) fn compared(self) -> Comparison {
        self.compared
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tensor::Shape;

    use super::*;

    fn done(index: usize, outputs: &[&[f32]]) -> Done {
        let tensor = |v: &&[f32]| Tensor::from_slice(Shape::from([v.len()]), v).unwrap();
        let outputs = outputs.iter().map(tensor).collect();
        Done {
            index,
            name: format!("item {index}"),
            outputs,
            arrived: Duration::ZERO,
            latency: Duration::ZERO,
        }
    }

    /// Compares items in their order: what the chain gave, and what the whole model gave.
    fn compare(chain: &[Done], whole: &[Done]) -> Result<Comparison> {
        let mut round = FirstRound::new(true, chain.len());
        chain.iter().for_each(|done| round.keep(done));
        whole.iter().try_for_each(|done| round.compare(done))?;
        Ok(round.compared())
    }

    #[test]
    fn what_was_compared_is_counted() {
        let (a, b) = (done(0, &[&[1.0], &[2.0, 3.0]]), done(1, &[&[-9.0], &[2.0, 3.0]]));
        let near = done(0, &[&[1.5], &[2.0, 3.25]]);
        let compared =
            compare(&[a, b], &[near, done(1, &[&[-9.0], &[2.0, 3.0]]), done(2, &[&[7.0]])]).unwrap();
        let expected =
            Comparison { compared_items: 2, largest_difference: Some(0.5), largest_output: Some(9.0) };
        assert_eq!(compared, expected);
        // Nothing compared is no difference of 0.
        assert_eq!(compare(&[], &[done(0, &[&[1.0]])]).unwrap(), Comparison::default());
        assert_eq!(Comparison::default().largest_difference, None);
        let mut round = FirstRound::new(false, 5);
        round.keep(&done(0, &[&[1.0]]));
        round.compare(&done(0, &[&[1.0]])).unwrap();
        assert_eq!(round.compared().compared_items, 0);
    }

    #[test]
    fn outputs_that_cannot_be_compared_are_an_error() {
        let check = |chain: &[&[f32]], whole: &[&[f32]], part: &str| {
            let error = compare(&[done(0, chain)], &[done(0, whole)]).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(part) && text.contains("item 0"), "{text}");
        };
        check(&[&[1.0]], &[&[1.0], &[2.0]], "gave 1 outputs");
        check(&[&[1.0], &[2.0]], &[&[1.0]], "gave 2 outputs");
        check(&[&[1.0]], &[&[1.0, 2.0]], "cannot be compared");
    }
}
