//! Full load beside the messages that are judged: senders that keep as much on its way as they may, to users of their own. Only
//! counted, not written down, so that minutes of it don't fill this program's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use iris_client::{Client, Outgoing, UserId};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::workload::users;

/// Senders, and unanswered messages of each: several batches of every shard.
const SENDERS: usize = 6;
const DEPTH: usize = 256;

/// Inboxes, some in every shard.
const RECIPIENTS: usize = 64;

/// Bytes of a message.
const BODY_LEN: usize = 100;

/// Senders at work; they end with this.
pub struct Ballast {
    acked: Arc<AtomicU64>,
    senders: JoinSet<()>,
}

impl Ballast {
    /// Begins.
    ///
    /// # Errors
    /// A client can't be made.
    pub async fn start(cluster: &Cluster, mut rng: StdRng) -> anyhow::Result<Self> {
        let acked = Arc::new(AtomicU64::new(0));
        let recipients = Arc::new(users("ballast-", RECIPIENTS)?);
        let mut senders = JoinSet::new();
        for (at, user) in users("porter-", SENDERS)?.into_iter().enumerate() {
            let client = cluster.client_at(&user, "porter", at % cluster.len()).await?;
            senders.spawn(send(
                client,
                Arc::clone(&recipients),
                Arc::clone(&acked),
                crate::seed::rng(rng.random(), ""),
            ));
        }
        Ok(Self { acked, senders })
    }

    /// Messages acked so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Ends it at once.
    pub fn stop(mut self) {
        self.senders.abort_all();
    }
}

async fn send(client: Client, recipients: Arc<Vec<UserId>>, acked: Arc<AtomicU64>, mut rng: StdRng) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut body = vec![0; BODY_LEN];
        rng.fill(&mut body[..]);
        let recipient = recipients[rng.random_range(0..recipients.len())].clone();
        let Ok(pending) = client.send(Outgoing::new(recipient, body)).await else { return };
        under_way.push(pending);
        while under_way.len() >= DEPTH {
            if let Some(Ok(_)) = under_way.next().await {
                acked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
