//! Codecs that lose something are used on a chain only while its outputs stay what they are: this tries them end to end.
//!
//! The real tail of the model tells what a link's error does, and errors of several links add up in their own way; so
//! items run through the whole chain, first with every link raw, then as planned, then with one link at a time. Called
//! while a pipeline is deployed, before the user's items flow. What a link takes instead is the planner's choice.

use std::time::{Duration, Instant};

use tensor::{Tensor, TensorSpec};
use wire::{Codec, Fidelity};

use super::settle::Standing;
use super::{DeployError, ItemError, Pipeline};
use crate::deviation::{Comparing, Deviation, Limits};
use crate::profile::arbitrary_item;

/// Items that are tried at most: the whole chain runs them several times.
pub const MAX_TRIAL_ITEMS: usize = 16;

/// How long the items of one run may take, as far as the first one tells; one is tried in any case.
const TIME_PER_RUN: Duration = Duration::from_secs(5);

/// Outputs that are kept to compare with, bytes; those of one item in any case.
const MAX_KEPT: usize = 256 << 20;

/// When codecs that lose something may be used. Coarse ones always have to be tried.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    /// How far outputs may move.
    pub limits: Limits,
    /// The items to try, of which [`MAX_TRIAL_ITEMS`] are taken; arbitrary ones if there are none.
    pub items: Vec<Vec<Tensor>>,
    /// Whether halves are to be tried even where no link is coarse. Without it they are where the outputs are beyond the
    /// limits when no coarse codec is left.
    pub halves: bool,
}

/// What trying a chain's codecs found.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecTrial {
    /// What outputs were held against.
    pub limits: Limits,
    /// Items tried; those on which the model fails do not count.
    pub items: usize,
    /// Whether they were arbitrary ones.
    pub arbitrary: bool,
    /// Whether the codecs come from a layout that was given, and were not chosen by the planner.
    pub of_layout: bool,
    /// What was tried on single links: coarse codecs in the order of the chain, then halves, as far as they were in
    /// question. A link is here twice that lost both.
    pub links: Vec<TriedLink>,
    /// The codecs of the chain that were tried together, with what they did to the outputs; the last ones are used.
    pub rounds: Vec<(Vec<Codec>, Deviation)>,
}

/// What trying one link found.
#[derive(Clone, Debug, PartialEq)]
pub struct TriedLink {
    /// Its number, from 0, which leads to the first stage.
    pub link: usize,
    /// The codec that was planned, or that took the place of one that was.
    pub tried: Codec,
    /// How far the outputs moved while all other links were raw.
    pub alone: Deviation,
    /// What it uses now.
    pub chosen: Codec,
}

impl CodecTrial {
    /// How far the outputs move with the codecs that are used, by these items.
    pub fn deviation(&self) -> &Deviation {
        &self.rounds.last().expect("there is a first round").1
    }

    /// Whether a link that was to use halves may not, as the outputs moved too far.
    pub(super) fn took_back_halves(&self) -> bool {
        let exact = |link: &TriedLink| link.chosen.fidelity() == Fidelity::Exact;
        self.links.iter().any(|link| link.tried.fidelity() == Fidelity::Half && exact(link))
    }
}

/// Tries what a chain is to use and takes back first coarse codecs, then halves, the worst link's first, until the
/// outputs are within the limits. `None` where there is nothing to try. Without items nothing speaks for a coarse codec,
/// and nothing against a half.
pub(super) fn try_codecs(
    pipeline: &Pipeline,
    standing: &Standing<'_>,
) -> Result<Option<CodecTrial>, DeployError> {
    let agreement = &standing.options.agreement;
    let planned = pipeline.codecs();
    let least = planned.iter().enumerate().map(|(link, &codec)| standing.fidelity(link, codec)).min();
    let questionable = if agreement.halves { Fidelity::Half } else { Fidelity::Coarse };
    if least.is_none_or(|least| least > questionable) {
        return Ok(None);
    }
    let arbitrary = agreement.items.is_empty();
    let items = match arbitrary {
        true => arbitrary_items(standing.tensors(0), MAX_TRIAL_ITEMS),
        false => agreement.items.iter().take(MAX_TRIAL_ITEMS).cloned().collect(),
    };
    let mut bench = Bench::new(pipeline, standing, items)?;
    let limits = &agreement.limits;
    let (links, rounds) = choose(&planned, limits, &mut bench)?;
    let (codecs, _) = rounds.last().expect("there is a first round");
    bench.set(codecs)?;
    let (items, of_layout) = (bench.references.len(), standing.options.layout.is_some());
    Ok(Some(CodecTrial { limits: *limits, items, arbitrary, of_layout, links, rounds }))
}

/// Items that differ in their floats and bytes; none if the model takes what cannot be made up.
fn arbitrary_items(specs: &[TensorSpec], count: usize) -> Vec<Vec<Tensor>> {
    let base = arbitrary_item(specs);
    let vary = |tensor: &Tensor, n: usize| {
        let (size, shift) = ((n % 4 + 1) as f32 / 2.0, n * 97);
        if let Ok(pixels) = tensor.as_slice::<u8>() {
            let pixels: Vec<u8> = (0..pixels.len()).map(|i| pixels[(i + shift) % pixels.len()]).collect();
            return Tensor::from_slice(tensor.shape(), &pixels).expect("as many values as before");
        }
        let Ok(values) = tensor.as_slice::<f32>() else { return tensor.clone() };
        let values: Vec<f32> = (0..values.len()).map(|i| values[(i + shift) % values.len()] * size).collect();
        Tensor::from_slice(tensor.shape(), &values).expect("as many values as before")
    };
    let item = |n: usize| base.iter().map(|tensor| vary(tensor, n)).collect();
    if base.len() == specs.len() { (0..count).map(item).collect() } else { Vec::new() }
}

/// What a trial asks of a chain.
trait Chain {
    /// How far the outputs move with these codecs; `None` if there is nothing to try with.
    fn deviation(&mut self, codecs: &[Codec]) -> Result<Option<Deviation>, DeployError>;

    /// What comes out of a link again with a codec.
    fn fidelity(&self, link: usize, codec: Codec) -> Fidelity;

    /// The best codec for a link that gives more of its values back than its own, with these codecs along the chain.
    fn fallback(&self, codecs: &[Codec], link: usize) -> Result<Codec, DeployError>;
}

type Rounds = Vec<(Vec<Codec>, Deviation)>;

/// Which codecs of those planned are used.
fn choose(
    planned: &[Codec],
    limits: &Limits,
    chain: &mut dyn Chain,
) -> Result<(Vec<TriedLink>, Rounds), DeployError> {
    let mut codecs = planned.to_vec();
    let together = chain.deviation(&codecs)?;
    let untried = together.is_none();
    let mut rounds = vec![(codecs.clone(), together.unwrap_or_default())];
    let mut links: Vec<TriedLink> = Vec::new();
    for level in [Fidelity::Coarse, Fidelity::Half] {
        let beyond = |rounds: &Rounds| match untried {
            true => level == Fidelity::Coarse,
            false => !rounds.last().expect("there is a first one").1.within(limits),
        };
        // Halves are no question any more where coarse codecs were, and the outputs are right now.
        if !links.is_empty() && !beyond(&rounds) {
            break;
        }
        let of_level = |link: &usize| chain.fidelity(*link, codecs[*link]) == level;
        let of_level: Vec<usize> = (0..codecs.len()).filter(of_level).collect();
        let mut left = Vec::new();
        for link in of_level {
            let (tried, alone) = (codecs[link], alone(&codecs, link, &rounds, chain)?);
            left.push((link, alone.severity(limits)));
            links.push(TriedLink { link, tried, alone, chosen: tried });
        }
        // The worst comes last.
        left.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        while let Some((worst, _)) = left.pop().filter(|_| beyond(&rounds)) {
            codecs[worst] = chain.fallback(&codecs, worst)?;
            rounds.push((codecs.clone(), chain.deviation(&codecs)?.unwrap_or_default()));
        }
    }
    links.iter_mut().for_each(|link| link.chosen = codecs[link.link]);
    Ok((links, rounds))
}

/// How far the outputs move with the codec of one link, all others being raw.
fn alone(
    codecs: &[Codec],
    link: usize,
    rounds: &Rounds,
    chain: &mut dyn Chain,
) -> Result<Deviation, DeployError> {
    let mut only = vec![Codec::RAW; codecs.len()];
    only[link] = codecs[link];
    match rounds.iter().find(|(tried, _)| *tried == only) {
        Some((_, known)) => Ok(known.clone()),
        None => Ok(chain.deviation(&only)?.unwrap_or_default()),
    }
}

/// A chain with the items that are tried on it.
struct Bench<'a> {
    pipeline: &'a Pipeline,
    standing: &'a Standing<'a>,
    /// Items, each with its outputs when all links are raw.
    references: Vec<(Vec<Tensor>, Vec<Tensor>)>,
}

impl<'a> Bench<'a> {
    /// Runs the items raw.
    fn new(
        pipeline: &'a Pipeline,
        standing: &'a Standing<'a>,
        items: Vec<Vec<Tensor>>,
    ) -> Result<Bench<'a>, DeployError> {
        let mut bench = Bench { pipeline, standing, references: Vec::new() };
        bench.set(&vec![Codec::RAW; pipeline.codec_lists().len()])?;
        let (mut kept, started) = (0, Instant::now());
        for item in items {
            if !bench.references.is_empty() && (kept > MAX_KEPT || started.elapsed() > TIME_PER_RUN) {
                break;
            }
            // What the model fails on says nothing about codecs.
            if let Some(outputs) = answer(pipeline.infer(item.clone()))? {
                kept += outputs.iter().map(|output| output.bytes().len()).sum::<usize>();
                bench.references.push((item, outputs));
            }
        }
        Ok(bench)
    }

    fn set(&self, codecs: &[Codec]) -> Result<(), DeployError> {
        let switch = |(link, &codec)| self.pipeline.recode(link, codec);
        codecs.iter().enumerate().try_for_each(switch).map_err(DeployError::from)
    }
}

impl Chain for Bench<'_> {
    fn deviation(&mut self, codecs: &[Codec]) -> Result<Option<Deviation>, DeployError> {
        if self.references.is_empty() {
            return Ok(None);
        }
        self.set(codecs)?;
        let outputs = self.pipeline.outputs();
        let mut comparing = Comparing::new(outputs.len());
        // The window bounds what is in flight; there are few results.
        let flying = self.references.iter().map(|(item, _)| self.pipeline.submit(item.clone()));
        let flying = flying.collect::<Result<Vec<_>, _>>().map_err(DeployError::Trial)?;
        for (pending, (_, reference)) in std::iter::zip(flying, &self.references) {
            comparing.add(reference, answer(pending.wait())?.as_deref());
        }
        Ok(Some(comparing.finish(outputs)))
    }

    fn fidelity(&self, link: usize, codec: Codec) -> Fidelity {
        self.standing.fidelity(link, codec)
    }

    fn fallback(&self, codecs: &[Codec], link: usize) -> Result<Codec, DeployError> {
        let least = self.fidelity(link, codecs[link]);
        let list = self.pipeline.codec_lists()[link].iter();
        let better: Vec<Codec> = list.filter(|&codec| self.fidelity(link, codec) > least).collect();
        self.standing.best(codecs, link, &better)
    }
}

/// The outputs of an item; none if the model fails on it.
fn answer(result: Result<Vec<Tensor>, ItemError>) -> Result<Option<Vec<Tensor>>, DeployError> {
    match result {
        Ok(outputs) => Ok(Some(outputs)),
        Err(ItemError::Failed(reason)) => {
            tracing::debug!("an item does not count in the trial of codecs: {reason}");
            Ok(None)
        }
        Err(e) => Err(DeployError::Trial(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deviation::OutputDeviation;

    fn codec(name: &str) -> Codec {
        name.parse().unwrap()
    }

    /// A chain whose errors add up: so much for each link that is coarse, and a hundredth of it where it is half.
    struct Adding {
        errors: Vec<f64>,
        items: bool,
        /// A link of integers, to which no codec does anything.
        integers: Option<usize>,
        runs: usize,
    }

    impl Chain for Adding {
        fn deviation(&mut self, codecs: &[Codec]) -> Result<Option<Deviation>, DeployError> {
            self.runs += 1;
            let error = |(link, &codec): (usize, &Codec)| match self.fidelity(link, codec) {
                Fidelity::Coarse => self.errors[link],
                Fidelity::Half => self.errors[link] / 100.0,
                Fidelity::Exact => 0.0,
            };
            let error = codecs.iter().enumerate().map(error).sum();
            let output =
                OutputDeviation { name: "y".into(), decisions: 0, agreeing: 0, error, relative_error: error };
            Ok(self.items.then_some(Deviation { outputs: vec![output] }))
        }

        fn fidelity(&self, link: usize, codec: Codec) -> Fidelity {
            if self.integers == Some(link) { Fidelity::Exact } else { codec.fidelity() }
        }

        fn fallback(&self, codecs: &[Codec], link: usize) -> Result<Codec, DeployError> {
            let fallbacks = match self.fidelity(link, codecs[link]) {
                Fidelity::Coarse => ["bf16", "f16", "lz4", "raw"],
                _ => ["raw", "lz4", "raw", "bitmap"],
            };
            Ok(codec(fallbacks[link]))
        }
    }

    fn codecs(names: &str) -> Vec<Codec> {
        names.split(' ').map(codec).collect()
    }

    #[test]
    fn the_worst_links_lose_their_codecs_until_the_rest_is_within_the_limits() {
        let infinite = f64::INFINITY;
        // Planned codecs, what each coarse link does, the limit; what is used then, the links tried, after how many runs.
        for (planned, errors, limit, used, tried, runs) in [
            ("u8 raw u8 raw", [0.02, 0.0, 0.03, 0.0], 0.05, "u8 raw u8 raw", &[0, 2][..], 3),
            ("u8 raw u8 raw", [0.02, 0.0, 0.04, 0.0], 0.05, "u8 raw lz4 raw", &[0, 2], 4),
            ("u8 u8 u8 u8", [0.03, 0.06, 0.04, 0.02], 0.05, "bf16 f16 lz4 u8", &[0, 1, 2, 3], 8),
            ("u8 u8 u8 u8", [0.03, 0.06, 0.04, 0.02], 0.06, "u8 f16 lz4 u8", &[0, 1, 2, 3], 7),
            ("u8 bf16 u8 raw", [0.3, 0.1, 0.3, 0.0], 0.05, "bf16 bf16 lz4 raw", &[0, 2], 5),
            ("raw u8 raw raw", [0.0, 0.01, 0.0, 0.0], 0.05, "raw u8 raw raw", &[1], 1),
            ("raw u8 raw raw", [0.0, infinite, 0.0, 0.0], 0.05, "raw lz4 raw raw", &[1, 1], 3),
            // Halves that are left do too much as well: the worst of them goes, or all.
            ("u8 bf16 u8 raw", [0.3, 9.0, 0.3, 0.0], 0.05, "bf16 lz4 lz4 raw", &[0, 2, 0, 1], 8),
            ("u8 bf16 u8 raw", [0.3, 9.0, 0.3, 0.0], 0.0, "raw lz4 lz4 raw", &[0, 2, 0, 1], 9),
            // Without coarse ones halves are tried at once.
            ("raw f16 f16 raw", [0.0, 2.0, 1.0, 0.0], 0.05, "raw f16 f16 raw", &[1, 2], 3),
            ("raw f16 f16 raw", [0.0, 3.0, 4.0, 0.0], 0.05, "raw f16 raw raw", &[1, 2], 4),
            ("raw f16 raw raw", [0.0, 6.0, 0.0, 0.0], 0.05, "raw lz4 raw raw", &[1], 2),
        ] {
            let mut chain = Adding { errors: errors.to_vec(), items: true, integers: None, runs: 0 };
            let limits = Limits { agreement: 1.0, error: limit };
            let (links, rounds) = choose(&codecs(planned), &limits, &mut chain).unwrap();
            let (last, deviation) = rounds.last().unwrap();
            assert_eq!(*last, codecs(used), "{planned}");
            assert!(deviation.within(&limits), "{planned}: {deviation:?}");
            assert_eq!(links.iter().map(|link| link.link).collect::<Vec<_>>(), tried, "{planned}");
            assert_eq!(chain.runs, runs, "{planned}");
            for TriedLink { link, tried, alone, chosen } in links {
                let share = if tried.fidelity() == Fidelity::Half { 100.0 } else { 1.0 };
                assert_eq!((alone.relative_error(), chosen), (errors[link] / share, last[link]), "{planned}");
            }
        }
    }

    #[test]
    fn without_items_coarse_codecs_go_and_halves_stay() {
        for (planned, used, tried) in
            [("raw u8 u8 raw", "raw f16 lz4 raw", 2), ("f16 u8 raw raw", "f16 f16 raw raw", 1)]
        {
            let mut chain = Adding { errors: vec![0.0; 4], items: false, integers: None, runs: 0 };
            let (links, rounds) = choose(&codecs(planned), &Limits::default(), &mut chain).unwrap();
            assert_eq!((&rounds.last().unwrap().0, links.len()), (&codecs(used), tried));
        }
    }

    #[test]
    fn a_link_to_which_a_codec_does_nothing_is_not_tried() {
        let mut chain = Adding { errors: vec![9.0, 0.1], items: true, integers: Some(0), runs: 0 };
        let (links, rounds) = choose(&codecs("u8 u8"), &Limits::default(), &mut chain).unwrap();
        assert_eq!((links.len(), links[0].link), (1, 1));
        assert_eq!(rounds.last().unwrap().0, codecs("u8 f16"));
    }
}
