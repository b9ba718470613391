//! The codec that a link uses while it runs: one thread decides, another one sends.

use std::sync::{Arc, Mutex, PoisonError};

use wire::Codec;

/// The codec in use on a link. It is read once for an item, which costs nothing beside sending it.
#[derive(Clone)]
pub(crate) struct InUse(Arc<Mutex<Codec>>);

impl InUse {
    pub(crate) fn new(codec: Codec) -> InUse {
        InUse(Arc::new(Mutex::new(codec)))
    }

    pub(crate) fn get(&self) -> Codec {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, codec: Codec) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = codec;
    }
}
