//! Entering the control plane, and what to do when that or finding nodes fails.

use anyhow::{Error, Result};
use pipeline::{Cluster, NetworkConfig, NetworkError};

use crate::failure::Hint;

/// What to do when nodes are missing.
pub(super) const FIND_NODES: &str = "start `defer node` on each machine, with --insecure to be reachable from others (and here \
                          to look for them); in another network, name one with --connect and the address \
                          of its --listen; `defer run --spawn 4` needs no nodes, it starts its own";

/// Enters the control plane.
pub(super) fn join(network: &NetworkConfig) -> Result<Cluster> {
    Cluster::join(network).map_err(|e| {
        let advice = network_advice(&e);
        advised(e, advice)
    })
}

/// What to do when the control plane cannot be entered.
pub(super) fn network_advice(error: &NetworkError) -> Option<&'static str> {
    match error {
        NetworkError::Insecure { .. } => Some(
            "if you trust everybody in that network, say so with --insecure; else use loopback addresses",
        ),
        NetworkError::Open { .. } => Some(
            "another program may use the port, or the address is not this machine's: choose another --listen",
        ),
        NetworkError::Group { .. } | NetworkError::Declare(_) => None,
    }
}

/// An error with advice, if there is any.
pub(super) fn advised(
    error: impl std::error::Error + Send + Sync + 'static,
    advice: Option<&'static str>,
) -> Error {
    match (Err::<(), _>(error), advice) {
        (failed, Some(advice)) => failed.hint(advice).expect_err("it is an error"),
        (failed, None) => failed.expect_err("it is an error").into(),
    }
}
