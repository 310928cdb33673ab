//! Executes placement: while this node leads the meta group, it takes new members into that group and writes the next step of
//! [`super::placement`] into the map. Everything it knows is in the meta state and the group's log, so any other node goes on
//! where it stopped.

use std::time::Duration;

use iris_protocol::NodeId;
use tokio_util::sync::CancellationToken;

use super::membership::tend_meta;
use super::meta::MetaCommand;
use super::partition_watch::Partitions;
use super::placement::next_step;
use super::proposals::Proposals;
use super::transport::PeerTransport;

/// Between looks: a step takes longer than that to be carried out.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs until `stop`.
///
/// # Errors
/// The meta group's Raft core has ended.
pub(super) async fn run(
    proposals: &Proposals,
    transport: &dyn PeerTransport,
    partitions: &Partitions,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let state = proposals.view.borrow().clone();
        let Some(state) = state.filter(|_| proposals.leads()) else { continue };
        tend_meta(proposals, transport, &state).await?;
        if partitions.is_cut_off(proposals.node) {
            // As with shards (`leadership`): members behind the cut could ask for no change.
            let suits = |voter: &NodeId| transport.is_up(*voter) && !partitions.is_cut_off(*voter);
            if let Some(to) = proposals.meta.voter_ids().find(suits) {
                proposals.meta.trigger().transfer_leader(to).await?;
            }
        }
        let up = |node| node == proposals.node || transport.is_up(node);
        if let Some(step) = next_step(&state, up) {
            tracing::info!(shard = %step.shard, before = ?step.before, replicas = ?step.replicas, "placing a shard");
            let command = MetaCommand::Place { shard: step.shard, before: step.before, replicas: step.replicas };
            if let Err(error) = proposals.lead(&command).await {
                tracing::debug!(%error, "could not place a shard yet");
            }
        }
    }
}
