//! The leaf certificate over time (D10): the meta group's leader has it made anew when it does not fit the nodes any more or its
//! end comes near, and every node shows new connections the latest one. Connections that stand are not touched.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::pki::{self, NewLeaf, ServerTls};
use crate::cluster::meta::{Leaf, MetaCommand};
use crate::cluster::{MetaState, Proposals};
use crate::supervise::Supervisor;
use crate::surroundings::Clock;

/// Between looks at the calendar, and between attempts.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Between certificates made for other names: a machine whose network comes and goes changes its addresses with it, and each
/// certificate is an entry in the meta log. What ends is not waited for.
const NAMES_EVERY: Duration = Duration::from_secs(60);

/// Keeps the certificate in line, on whichever node leads, and `tls` in line with it.
pub(super) fn spawn(supervisor: &Supervisor, tls: Arc<ServerTls>, proposals: Arc<Proposals>, clock: Arc<dyn Clock>) {
    supervisor.spawn("certificates", move |stop| {
        let (tls, proposals, clock) = (tls.clone(), proposals.clone(), clock.clone());
        async move {
            let mut view = proposals.view.clone();
            let mut keeper = Keeper { tls, proposals, clock, shown: None, made: None, complaint: None };
            loop {
                let state = view.borrow_and_update().clone();
                if let Some(state) = state {
                    keeper.look(&state).await;
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    // The state's publisher goes only when the node does.
                    changed = view.changed() => if changed.is_err() { return Ok(()) },
                }
            }
        }
    });
}

struct Keeper {
    tls: Arc<ServerTls>,
    proposals: Arc<Proposals>,
    clock: Arc<dyn Clock>,
    /// What new connections are shown.
    shown: Option<Leaf>,
    /// When this node made one last.
    made: Option<Instant>,
    /// What went wrong at the last look, if something did.
    complaint: Option<String>,
}

impl Keeper {
    /// Does what is to be done. What fails is tried again at the next look and is no reason to end: the certificate that is
    /// shown goes on being good, and no other part of the node needs a new one.
    async fn look(&mut self, state: &MetaState) {
        let complaint = self.keep(state).await.err().map(|error| format!("{error:#}"));
        if let Some(why) = complaint.as_ref().filter(|_| complaint != self.complaint) {
            tracing::error!(why, "the cluster's certificate can't be renewed; the one before is shown on");
        }
        self.complaint = complaint;
    }

    async fn keep(&mut self, state: &MetaState) -> anyhow::Result<()> {
        if self.shown.as_ref() != Some(&state.pki.leaf) {
            self.tls.update(&state.pki)?;
            self.shown = Some(state.pki.leaf.clone());
        }
        let now_ms = self.clock.unix_ms();
        let is_due = match pki::needs_new_leaf(state, now_ms) {
            None => false,
            Some(NewLeaf::Ends) => true,
            Some(NewLeaf::Names) => self.made.is_none_or(|made| made.elapsed() >= NAMES_EVERY),
        };
        if is_due && self.proposals.leads() {
            self.renew(state, now_ms).await?;
        }
        Ok(())
    }

    async fn renew(&mut self, state: &MetaState, now_ms: u64) -> anyhow::Result<()> {
        let leaf = pki::reissue(&state.cluster, &state.pki, &pki::node_names(&state.nodes), now_ms)?;
        match self.proposals.lead(&MetaCommand::Leaf(leaf.clone())).await {
            Ok(_) => {
                self.made = Some(Instant::now());
                tracing::info!(
                    names = leaf.names.join(", "),
                    "the cluster's certificate was made anew, with the same key"
                );
            }
            // Another leader does it, or this one at the next look.
            Err(error) => tracing::debug!(%error, "the cluster's certificate was not made anew yet"),
        }
        Ok(())
    }
}
