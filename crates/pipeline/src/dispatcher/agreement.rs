//! Coarse codecs are used on a chain only while its outputs stay what they are: this tries them end to end.
//!
//! The real tail of the model tells what a link's error does, and errors of several links add up in their own way; so
//! items run through the whole chain, first with every link raw, then as planned, then with one coarse link at a time.
//! Called while a pipeline is deployed, before the user's items flow.

use std::time::{Duration, Instant};

use tensor::{Tensor, TensorSpec};
use wire::{Codec, CodecList, Fidelity};

use super::{DeployError, ItemError, Pipeline};
use crate::deviation::{Comparing, Deviation, Limits};
use crate::profile::arbitrary_item;

/// Items that are tried at most: the whole chain runs them several times.
pub const MAX_TRIAL_ITEMS: usize = 16;

/// How long the items of one run may take, as far as the first one tells; one is tried in any case.
const TIME_PER_RUN: Duration = Duration::from_secs(5);

/// Outputs that are kept to compare with, bytes; those of one item in any case.
const MAX_KEPT: usize = 256 << 20;

/// Looks at a chain until all of its stages have counted an item whose result is there already.
const MAX_LOOKS: usize = 1000;

/// When coarse codecs may be used.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    /// How far outputs may move.
    pub limits: Limits,
    /// The items to try, of which [`MAX_TRIAL_ITEMS`] are taken; arbitrary ones if there are none.
    pub items: Vec<Vec<Tensor>>,
}

/// What trying a chain's coarse codecs found.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecTrial {
    /// What outputs were held against.
    pub limits: Limits,
    /// Items tried; those on which the model fails do not count.
    pub items: usize,
    /// Whether they were arbitrary ones.
    pub arbitrary: bool,
    /// Links that were to use a coarse codec, in the order of the chain.
    pub links: Vec<TriedLink>,
    /// The codecs of the chain that were tried together, with what they did to the outputs; the last ones are used.
    pub rounds: Vec<(Vec<Codec>, Deviation)>,
}

/// What trying one link found.
#[derive(Clone, Debug, PartialEq)]
pub struct TriedLink {
    /// Its number, from 0, which leads to the first stage.
    pub link: usize,
    /// The coarse codec that was planned.
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
}

/// Tries what a chain is to use and takes coarse codecs back, the worst link's first, until the outputs are within the
/// limits. `None` without coarse codecs. Without items nothing speaks for a coarse codec.
pub(super) fn try_codecs(
    pipeline: &Pipeline,
    shapes: &[TensorSpec],
    agreement: &Agreement,
) -> Result<Option<CodecTrial>, DeployError> {
    let planned = pipeline.codecs();
    if !planned.iter().any(|&codec| is_coarse(codec)) {
        return Ok(None);
    }
    let arbitrary = agreement.items.is_empty();
    let items = match arbitrary {
        true => arbitrary_items(shapes, MAX_TRIAL_ITEMS),
        false => agreement.items.iter().take(MAX_TRIAL_ITEMS).cloned().collect(),
    };
    let mut bench = Bench::new(pipeline, items)?;
    let limits = &agreement.limits;
    let (links, rounds) = choose(&planned, limits, &mut bench)?;
    let (codecs, _) = rounds.last().expect("there is a first round");
    bench.set(codecs)?;
    Ok(Some(CodecTrial { limits: *limits, items: bench.references.len(), arbitrary, links, rounds }))
}

/// Items that differ in their floats and bytes; none if the model takes what cannot be made up.
fn arbitrary_items(specs: &[TensorSpec], count: usize) -> Vec<Vec<Tensor>> {
    let base = arbitrary_item(specs);
    let vary = |tensor: &Tensor, n: usize| {
        let (size, shift) = ((n % 4 + 1) as f32 / 2.0, n * 97);
        if let Ok(pixels) = tensor.as_slice::<u8>() {
            let pixels: Vec<u8> = (0..pixels.len()).map(|i| ((i + shift) * 7919 % 251) as u8).collect();
            return Tensor::from_slice(tensor.shape(), &pixels).expect("as many values as before");
        }
        let Ok(values) = tensor.as_slice::<f32>() else { return tensor.clone() };
        let values: Vec<f32> = (0..values.len()).map(|i| values[(i + shift) % values.len()] * size).collect();
        Tensor::from_slice(tensor.shape(), &values).expect("as many values as before")
    };
    let item = |n: usize| base.iter().map(|tensor| vary(tensor, n)).collect();
    if base.len() == specs.len() { (0..count).map(item).collect() } else { Vec::new() }
}

fn is_coarse(codec: Codec) -> bool {
    codec.fidelity() == Fidelity::Coarse
}

/// What a trial asks of a chain.
trait Chain {
    /// How far the outputs move with these codecs; `None` if there is nothing to try with.
    fn deviation(&mut self, codecs: &[Codec]) -> Result<Option<Deviation>, DeployError>;

    /// The best codec for a link that is not coarse.
    fn fallback(&mut self, link: usize) -> Result<Codec, DeployError>;
}

type Rounds = Vec<(Vec<Codec>, Deviation)>;

/// Which coarse codecs of those planned are used.
fn choose(
    planned: &[Codec],
    limits: &Limits,
    chain: &mut dyn Chain,
) -> Result<(Vec<TriedLink>, Rounds), DeployError> {
    let mut codecs = planned.to_vec();
    let together = chain.deviation(&codecs)?;
    let untried = together.is_none();
    let mut rounds = vec![(codecs.clone(), together.unwrap_or_default())];
    let mut links = Vec::new();
    for (link, &tried) in planned.iter().enumerate().filter(|&(_, &codec)| is_coarse(codec)) {
        let mut only = vec![Codec::RAW; planned.len()];
        only[link] = tried;
        let alone = match only == planned {
            true => rounds[0].1.clone(),
            false => chain.deviation(&only)?.unwrap_or_default(),
        };
        links.push(TriedLink { link, tried, alone, chosen: tried });
    }
    let severity = |link: &TriedLink| link.alone.severity(limits);
    while untried || !rounds.last().expect("there is a first one").1.within(limits) {
        let left = links.iter_mut().filter(|link| is_coarse(link.chosen));
        let Some(worst) = left.max_by(|a, b| severity(a).total_cmp(&severity(b))) else { break };
        worst.chosen = chain.fallback(worst.link)?;
        codecs[worst.link] = worst.chosen;
        rounds.push((codecs.clone(), chain.deviation(&codecs)?.unwrap_or_default()));
    }
    Ok((links, rounds))
}

/// A chain with the items that are tried on it.
struct Bench<'a> {
    pipeline: &'a Pipeline,
    /// Items, each with its outputs when all links are raw.
    references: Vec<(Vec<Tensor>, Vec<Tensor>)>,
    /// By codec that is not coarse and some link may use: bytes of an item on each link. Empty until it is needed.
    bytes: Vec<(Codec, Vec<u64>)>,
}

impl<'a> Bench<'a> {
    /// Runs the items raw.
    fn new(pipeline: &'a Pipeline, items: Vec<Vec<Tensor>>) -> Result<Bench<'a>, DeployError> {
        let mut bench = Bench { pipeline, references: Vec::new(), bytes: Vec::new() };
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

    /// Bytes of the first item on every link, for every codec that is not coarse.
    fn weigh(&self) -> Result<Vec<(Codec, Vec<u64>)>, DeployError> {
        let lists = self.pipeline.codec_lists();
        let mut codecs: Vec<Codec> = Vec::new();
        for codec in lists.iter().flat_map(CodecList::iter) {
            if !is_coarse(codec) && !codecs.contains(&codec) {
                codecs.push(codec);
            }
        }
        let weigh = |codec| {
            let on = |list: &CodecList| if list.contains(codec) { codec } else { Codec::RAW };
            self.set(&lists.iter().map(on).collect::<Vec<_>>())?;
            Ok((codec, self.bytes_of_an_item()?))
        };
        codecs.into_iter().map(weigh).collect()
    }

    fn bytes_of_an_item(&self) -> Result<Vec<u64>, DeployError> {
        let before = self.pipeline.measure()?;
        let Some((item, _)) = self.references.first() else { return Ok(vec![0; before.len() + 1]) };
        answer(self.pipeline.infer(item.clone()))?;
        for _ in 0..MAX_LOOKS {
            // A stage counts an item when it is sent: its result may be here a moment earlier.
            let after = self.pipeline.measure()?;
            if std::iter::zip(&after, &before).all(|(after, before)| after.items > before.items) {
                let sent =
                    std::iter::zip(&after, &before).map(|(a, b)| a.bytes_out.saturating_sub(b.bytes_out));
                let received = after[0].bytes_in.saturating_sub(before[0].bytes_in);
                return Ok(std::iter::once(received).chain(sent).collect());
            }
        }
        Err(DeployError::Node("a node does not count the items that it answers".to_owned()))
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

    /// The one with the fewest bytes; of several, the first.
    fn fallback(&mut self, link: usize) -> Result<Codec, DeployError> {
        if self.bytes.is_empty() {
            self.bytes = self.weigh()?;
        }
        let list = &self.pipeline.codec_lists()[link];
        let usable = self.bytes.iter().filter(|(codec, _)| list.contains(*codec));
        Ok(usable.min_by_key(|(_, bytes)| bytes[link]).expect("raw is always there").0)
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

    /// A chain whose errors add up: so much for each link that is coarse.
    struct Adding {
        errors: Vec<f64>,
        items: bool,
        runs: usize,
    }

    impl Chain for Adding {
        fn deviation(&mut self, codecs: &[Codec]) -> Result<Option<Deviation>, DeployError> {
            self.runs += 1;
            let coarse = std::iter::zip(codecs, &self.errors).filter(|(codec, _)| is_coarse(**codec));
            let error = coarse.map(|(_, error)| error).sum();
            let output =
                OutputDeviation { name: "y".into(), decisions: 0, agreeing: 0, error, relative_error: error };
            Ok(self.items.then_some(Deviation { outputs: vec![output] }))
        }

        fn fallback(&mut self, link: usize) -> Result<Codec, DeployError> {
            Ok(codec(["bf16", "f16", "lz4", "raw"][link]))
        }
    }

    #[test]
    fn the_worst_links_lose_their_coarse_codecs_until_the_rest_is_within_the_limits() {
        // Planned codecs, what each coarse link does, whether there are items; what is used then, after how many runs.
        for (planned, errors, items, used, runs) in [
            ("u8 raw u8 raw", [0.02, 0.0, 0.03, 0.0], true, "u8 raw u8 raw", 3),
            ("u8 raw u8 raw", [0.02, 0.0, 0.04, 0.0], true, "u8 raw lz4 raw", 4),
            ("u8 u8 u8 u8", [0.03, 0.06, 0.04, 0.02], true, "u8 f16 lz4 u8", 7),
            ("u8 bf16 u8 raw", [0.3, 9.0, 0.3, 0.0], true, "bf16 bf16 lz4 raw", 5),
            ("raw u8 raw raw", [0.0, 0.01, 0.0, 0.0], true, "raw u8 raw raw", 1),
            ("raw u8 raw raw", [0.0, f64::INFINITY, 0.0, 0.0], true, "raw f16 raw raw", 2),
            ("raw u8 u8 raw", [0.0; 4], false, "raw f16 lz4 raw", 5),
        ] {
            let planned: Vec<Codec> = planned.split(' ').map(codec).collect();
            let mut chain = Adding { errors: errors.to_vec(), items, runs: 0 };
            let (links, rounds) = choose(&planned, &Limits::default(), &mut chain).unwrap();
            let used: Vec<Codec> = used.split(' ').map(codec).collect();
            assert_eq!(rounds.last().unwrap().0, used, "{planned:?}");
            assert_eq!(chain.runs, runs, "{planned:?}");
            for TriedLink { link, tried, alone, chosen } in links {
                assert_eq!((tried, chosen), (planned[link], used[link]));
                assert_eq!(alone.relative_error(), if items { errors[link] } else { 0.0 });
            }
        }
    }
}
