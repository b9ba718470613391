//! Codecs of a chain's links: which each may use, which it does, and how that changes while items flow.
//!
//! Links count along the chain: 0 leads from the dispatcher to the first stage, the last one back to it. Frames name
//! their codec, so a switch concerns the sending end only and needs no new epoch.

use std::sync::{Mutex, MutexGuard, PoisonError};

use wire::codec::CodecListError;
use wire::control::StageOrder;
use wire::{Codec, CodecList};

/// How tensors travel on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkCodecs {
    /// At first.
    pub(crate) begin: Codec,
    /// All that it may use.
    pub(crate) list: CodecList,
}

impl LinkCodecs {
    /// A link that never switches.
    pub(crate) fn only(codec: Codec) -> LinkCodecs {
        LinkCodecs { begin: codec, list: codec.into() }
    }

    /// Links that begin with `codecs` and may all switch to `alternatives`.
    pub(crate) fn all(codecs: &[Codec], alternatives: &CodecList) -> Result<Vec<LinkCodecs>, CodecListError> {
        let link = |&begin: &Codec| {
            let list = CodecList::new(std::iter::once(begin).chain(alternatives.iter()))?;
            Ok(LinkCodecs { begin, list })
        };
        codecs.iter().map(link).collect()
    }
}

/// A link that cannot be switched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecodeError {
    /// The chain has fewer links.
    #[error("the chain has links 0 to {last}, not {link}")]
    NoLink {
        /// The link asked for.
        link: usize,
        /// The one that brings results back.
        last: usize,
    },
    /// The link was not deployed for this codec.
    #[error("codec {codec} is not for link {link}, which takes {list}")]
    NotListed {
        /// The link.
        link: usize,
        /// The codec asked for.
        codec: Codec,
        /// What it may use.
        list: CodecList,
    },
    /// The node that sends on the link does not answer, or refuses.
    #[error("{0}")]
    Node(String),
}

/// A link that changed its codec because the chain became faster by it.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecSwitch {
    /// The link, from 0, which leads to the first stage.
    pub link: usize,
    /// What it used before.
    pub from: Codec,
    /// What it used then.
    pub to: Codec,
    /// The first item, from 0, that certainly travelled as `to`; a few before it may have.
    pub item: u64,
    /// Seconds between two results as they were seen before.
    pub period: f64,
    /// Seconds between two results that were expected of all switches of this moment together.
    pub expected_period: f64,
}

/// The links of a running chain.
pub(super) struct Links {
    lists: Vec<CodecList>,
    in_use: Mutex<Vec<InUse>>,
    /// Held while a link is switched: a node must not hear of two switches in another order than is noted here. Who
    /// only asks what is in use waits for nobody.
    turns: Vec<Mutex<()>>,
    /// Switches that made the chain faster.
    switched: Mutex<Vec<CodecSwitch>>,
}

#[derive(Clone, Copy)]
struct InUse {
    codec: Codec,
    /// Whether a switch failed since: its node may have carried it out nevertheless.
    doubtful: bool,
}

impl Links {
    /// Those of a chain that runs by these orders, which are our own; the first link begins with `first`.
    pub(super) fn new<'a>(first: Codec, orders: impl Iterator<Item = &'a StageOrder>) -> Links {
        let codecs = |order: &StageOrder| order.codecs().expect("orders of our own are sound");
        let (mut lists, mut begin) = (Vec::new(), vec![first]);
        for order in orders.map(codecs) {
            if lists.is_empty() {
                lists.push(order.arriving);
            }
            lists.push(order.leaving);
            begin.push(order.begin);
        }
        Links::of(lists, &begin)
    }

    fn of(lists: Vec<CodecList>, begin: &[Codec]) -> Links {
        let in_use = begin.iter().map(|&codec| InUse { codec, doubtful: false }).collect();
        let turns = begin.iter().map(|_| Mutex::default()).collect();
        Links { lists, in_use: Mutex::new(in_use), turns, switched: Mutex::default() }
    }

    /// What each link may use.
    pub(super) fn lists(&self) -> &[CodecList] {
        &self.lists
    }

    /// What each link uses; after a switch that failed, what it used before.
    pub(super) fn in_use(&self) -> Vec<Codec> {
        lock(&self.in_use).iter().map(|link| link.codec).collect()
    }

    /// Notes a switch for those who ask. There is one in minutes: see [`super::adapt`].
    pub(super) fn note(&self, switch: CodecSwitch) {
        lock(&self.switched).push(switch);
    }

    /// What was noted.
    pub(super) fn switched(&self) -> Vec<CodecSwitch> {
        lock(&self.switched).clone()
    }

    /// Switches a link by `carry_out`, which is not called where the link certainly uses the codec already.
    pub(super) fn switch(
        &self,
        link: usize,
        codec: Codec,
        carry_out: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), RecodeError> {
        let Some(list) = self.lists.get(link) else {
            return Err(RecodeError::NoLink { link, last: self.lists.len() - 1 });
        };
        if !list.contains(codec) {
            return Err(RecodeError::NotListed { link, codec, list: list.clone() });
        }
        let _turn = lock(&self.turns[link]);
        let InUse { codec: before, doubtful } = lock(&self.in_use)[link];
        if before == codec && !doubtful {
            return Ok(());
        }
        let carried_out = carry_out();
        lock(&self.in_use)[link] = match carried_out {
            Ok(()) => InUse { codec, doubtful: false },
            Err(_) => InUse { codec: before, doubtful: true },
        };
        carried_out.map_err(RecodeError::Node)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::of(vec![CodecList::from(Codec::LZ4); 2], &[Codec::RAW; 2])
    }

    #[test]
    fn after_a_switch_that_failed_the_next_one_is_carried_out_even_to_what_was_before() {
        let links = links();
        let failed = links.switch(1, Codec::LZ4, || Err("no answer".into()));
        assert_eq!(failed, Err(RecodeError::Node("no answer".into())));
        assert_eq!(links.in_use(), [Codec::RAW; 2]);
        for (codec, carried_out) in
            [(Codec::RAW, true), (Codec::RAW, false), (Codec::LZ4, true), (Codec::LZ4, false)]
        {
            let mut asked = false;
            let carry_out = || {
                asked = true;
                Ok(())
            };
            links.switch(1, codec, carry_out).unwrap();
            assert_eq!((asked, links.in_use()[1]), (carried_out, codec));
        }
    }

    #[test]
    fn nobody_else_waits_while_a_node_is_asked() {
        let links = links();
        let asked = links.switch(1, Codec::LZ4, || {
            assert_eq!(links.in_use(), [Codec::RAW; 2], "it is not switched yet");
            links.switch(0, Codec::LZ4, || Ok(())).map_err(|e| e.to_string())
        });
        assert_eq!((asked, links.in_use()), (Ok(()), vec![Codec::LZ4; 2]));
    }
}
