//! The leaf certificate over time (D10): the meta group's leader has it made anew when it does not fit the nodes any more or its
//! end comes near, and every node shows new connections the latest one. Connections that stand are not touched.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::pki::{self, ServerTls};
use crate::cluster::meta::MetaCommand;
use crate::cluster::{MetaState, Proposals};
use crate::supervise::Supervisor;
use crate::surroundings::Clock;

/// Between looks at the calendar, and between attempts.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Keeps the certificate in line, on whichever node leads, and `tls` in line with it.
pub(super) fn spawn(supervisor: &Supervisor, tls: Arc<ServerTls>, proposals: Arc<Proposals>, clock: Arc<dyn Clock>) {
    supervisor.spawn("certificates", move |stop| {
        let (tls, proposals, clock) = (tls.clone(), proposals.clone(), clock.clone());
        async move {
            let mut view = proposals.view.clone();
            let mut shown = None;
            loop {
                let state = view.borrow_and_update().clone();
                if let Some(state) = state {
                    if shown.as_ref() != Some(&state.pki.leaf) {
                        tls.update(&state.pki)?;
                        shown = Some(state.pki.leaf.clone());
                    }
                    if proposals.leads() && pki::needs_new_leaf(&state, clock.unix_ms()) {
                        renew(&state, &proposals, clock.unix_ms()).await?;
                    }
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

async fn renew(state: &MetaState, proposals: &Proposals, now_ms: u64) -> anyhow::Result<()> {
    let leaf = pki::reissue(&state.cluster, &state.pki, &pki::node_names(&state.nodes), now_ms)?;
    match proposals.lead(&MetaCommand::Leaf(leaf.clone())).await {
        Ok(_) => {
            tracing::info!(names = leaf.names.join(", "), "the cluster's certificate was made anew, with the same key")
        }
        // Another leader does it, or this one at the next look.
        Err(error) => tracing::debug!(%error, "the cluster's certificate was not made anew yet"),
    }
    Ok(())
}
