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

/// The links of a running chain.
pub(super) struct Links {
    lists: Vec<CodecList>,
    in_use: Mutex<Vec<Codec>>,
}

impl Links {
    /// Those of a chain that runs by these orders, which are our own; the first link begins with `first`.
    pub(super) fn new<'a>(first: Codec, orders: impl Iterator<Item = &'a StageOrder>) -> Links {
        let codecs = |order: &StageOrder| order.codecs().expect("orders of our own are sound");
        let (mut lists, mut in_use) = (Vec::new(), vec![first]);
        for order in orders.map(codecs) {
            if lists.is_empty() {
                lists.push(order.arriving);
            }
            lists.push(order.leaving);
            in_use.push(order.begin);
        }
        Links { lists, in_use: Mutex::new(in_use) }
    }

    /// What each link may use.
    pub(super) fn lists(&self) -> &[CodecList] {
        &self.lists
    }

    /// What each link uses.
    pub(super) fn in_use(&self) -> Vec<Codec> {
        self.lock().clone()
    }

    /// Switches a link by `carry_out`, one at a time.
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
        let mut in_use = self.lock();
        if in_use[link] != codec {
            carry_out().map_err(RecodeError::Node)?;
            in_use[link] = codec;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Codec>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
