//! Entering the control plane, and what to do when that or finding nodes fails.

use anyhow::{Error, Result};
use pipeline::{Cluster, DeployError, ItemError, NetworkConfig, NetworkError};

use crate::failure::Hint;

/// What to do when nodes are missing.
pub(super) const FIND_NODES: &str = "start `defer node` on each machine, with --insecure to be reachable from others (and here \
                          to look for them); in another network, name one with --connect and the address \
                          of its --listen; those of a --group are seen with the same one only; `defer run --spawn 4` \
                          needs no nodes, it starts its own";

/// What to do about an input that is not right.
pub(super) const TAKES: &str = "`defer run --help` says what inputs can be, with examples";

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

/// Who can do something about what failed while nodes were at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Whoever gave an item that the model does not take.
    Item,
    /// Whoever looks after the nodes, one of which went or failed.
    Nodes,
    /// The same, or whoever gave a node more than it can hold: it is gone.
    Lost,
    /// Whoever chose how the model is deployed.
    Deployment,
    /// The error speaks for itself.
    Other,
}

/// Whose fault an error is, by the first of its causes that tells.
pub(super) fn fault(error: &Error) -> Fault {
    let of_item = |e: &ItemError| if matches!(e, ItemError::Unfit(_)) { Fault::Item } else { Fault::Nodes };
    let of_cause = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<DeployError>() {
        Some(DeployError::Trial(e) | DeployError::Rehearsal(e)) => Some(of_item(e)),
        Some(DeployError::Recode(_)) => Some(Fault::Nodes),
        Some(DeployError::Lost(_)) => Some(Fault::Lost),
        Some(_) => Some(Fault::Deployment),
        None => cause.downcast_ref::<ItemError>().map(of_item),
    };
    error.chain().find_map(of_cause).unwrap_or(Fault::Other)
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

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use pipeline::RecodeError;

    use super::*;

    #[test]
    fn faults_are_those_of_items_of_nodes_or_of_neither() {
        let (broken, unfit) = (ItemError::Broken("n1 is gone".into()), ItemError::Unfit("3 of 4".into()));
        let failed = ItemError::Failed("a stage".into());
        for (error, expected) in [
            (Error::new(DeployError::Trial(broken.clone())), Fault::Nodes),
            (Error::new(DeployError::Trial(unfit.clone())), Fault::Item),
            (Error::new(DeployError::Rehearsal(broken.clone())), Fault::Nodes),
            (Error::new(DeployError::Recode(RecodeError::Node("n1".into()))), Fault::Nodes),
            (Error::new(DeployError::Refused("n1 has no room".into())), Fault::Deployment),
            (Error::new(DeployError::Lost("n1 is gone".into())), Fault::Lost),
            (Error::new(broken), Fault::Nodes),
            (Error::new(failed), Fault::Nodes),
            (Error::new(unfit), Fault::Item),
            (anyhow!("the disk is full"), Fault::Other),
        ] {
            let error = Err::<(), _>(error).context("input 3").unwrap_err();
            assert_eq!(fault(&error), expected, "{error:?}");
        }
    }
}
