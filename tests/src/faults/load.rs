//! Clients that write and read while a row breaks things: Rust senders and readers, and the Python client as one of each. Owns
//! the recorder; ends with the judgement.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use iris_client::UserId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bed::Bed;
use super::outcome::Tally;
use super::{RowRun, audit, python};
use crate::cluster::Cluster;
use crate::oracle::{Logs, Oracle};
use crate::traffic::{Pace, Receiver, Sender, Style, Traffic};
use crate::wait::within;
use crate::workload::{chatter, users};

/// Longest anything of the clients may take once the cluster is whole again.
const DEADLINE: Duration = Duration::from_secs(180);

/// The user of the Python client.
const PYTHON_USER: &str = "python";

/// How much is written.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Users who send by the Rust client.
    pub senders: usize,
    /// Users who receive, by the Rust client; the senders are among them.
    pub users: usize,
    /// Messages a second, all of them together.
    pub per_s: u32,
    /// Unanswered messages a sender has at most.
    pub depth: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { senders: 4, users: 6, per_s: 300, depth: 32 }
    }
}

/// Clients at work.
pub struct Load {
    /// What was sent and answered.
    pub oracle: Arc<Oracle>,
    /// How fast.
    pub pace: Arc<Pace>,
    traffic: Traffic,
    writer: Option<python::Writer>,
    readers: Vec<Following>,
    python_reader: Option<python::Reader>,
}

struct Following {
    user: UserId,
    enough: watch::Sender<Option<usize>>,
    task: JoinHandle<anyhow::Result<Receiver>>,
}

impl Load {
    /// Everybody begins to write and to read.
    ///
    /// # Errors
    /// A client can't be made.
    pub async fn start(run: &RowRun<'_>, cluster: &Cluster, size: Size) -> anyhow::Result<Self> {
        Self::start_as(run, cluster, size, "user-").await
    }

    /// The same with users whose names begin so: a row of several parts has different ones in each.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_as(run: &RowRun<'_>, cluster: &Cluster, size: Size, prefix: &str) -> anyhow::Result<Self> {
        let oracle = Arc::new(Oracle::new());
        let pace = Pace::steady(size.per_s);
        let rust = users(prefix, size.users)?;
        let python = UserId::new(format!("{prefix}{PYTHON_USER}"))?;
        let with_python = python::unavailable().is_none_or(|reason| {
            run.say(&format!("without the Python client: {reason}"));
            false
        });
        let everybody: Vec<UserId> = rust.iter().cloned().chain(with_python.then(|| python.clone())).collect();
        let style = Style { depth: size.depth, pace: Some(pace.clone()) };
        let mut traffic = Traffic::new();
        for (at, user) in rust.iter().take(size.senders).enumerate() {
            let client = cluster.client_at(user, "sender", at % cluster.len()).await?;
            let sender = Sender { client, user: user.clone(), lane: 0, oracle: oracle.clone(), style: style.clone() };
            traffic.add(sender, chatter(run.rng(&format!("{prefix}{at} writes")), everybody.clone()));
        }
        let mut readers = Vec::new();
        for (at, user) in rust.into_iter().enumerate() {
            readers.push(follow(cluster, user, (at + 1) % cluster.len()).await?);
        }
        let (mut writer, mut python_reader) = (None, None);
        if with_python {
            let messages = chatter(run.rng(&format!("{prefix}{PYTHON_USER} writes")), everybody);
            writer = Some(python::Writer::start(cluster, &oracle, &python, pace.clone(), messages).await?);
            python_reader = Some(python::Reader::start(cluster, &python).await?);
        }
        Ok(Self { oracle, pace, traffic, writer, readers, python_reader })
    }

    /// Waits until so many more messages are acked.
    ///
    /// # Errors
    /// Not in time.
    pub async fn more(&self, messages: usize) -> anyhow::Result<()> {
        self.oracle.wait_acked(self.oracle.acked() + messages, DEADLINE).await
    }

    /// Ends it and judges: every node is started and waited for, every inbox read through every node, the readers' lines
    /// compared, and the files of every replica. Errors that the client library let through are a fault.
    ///
    /// # Errors
    /// The cluster does not come back, or a client failed.
    pub async fn finish(self, bed: &mut Bed) -> anyhow::Result<Tally> {
        let (oracle, tally, errors) = self.finish_serving(bed).await?;
        if let Some(first) = errors.first() {
            bail!("the client library let {} errors through, the first: {first}", errors.len());
        }
        let mut tally = tally;
        audit::nothing_unexpected(bed)?;
        audit::at_every_replica(bed, &oracle, &mut tally).await?;
        Ok(tally)
    }

    /// The same without the files, the cluster goes on serving; with the errors the client library let through.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn finish_serving(self, bed: &mut Bed) -> anyhow::Result<(Arc<Oracle>, Tally, Vec<String>)> {
        let Self { oracle, pace: _pace, traffic, writer, readers, python_reader } = self;
        bed.cluster.heal().await.context("healing the cluster")?;
        let sent = traffic.stop(DEADLINE).await?;
        if let Some(writer) = writer {
            writer.finish(DEADLINE).await?;
        }
        let mut tally = Tally::default();
        let due = audit::through_every_node(bed, &oracle, &mut tally).await?;
        let shown = shown(readers, python_reader, &due).await?;
        tally.count(oracle.judge(&shown));
        Ok((oracle, tally, sent.errors))
    }
}

async fn follow(cluster: &Cluster, user: UserId, node: usize) -> anyhow::Result<Following> {
    let client = cluster.client_at(&user, "reader", node).await?;
    let (enough, told) = watch::channel(None);
    let task = tokio::spawn(Receiver::new(user.clone()).follow(client, told));
    Ok(Following { user, enough, task })
}

/// Waits until every reader was shown its whole inbox, and returns what they were shown.
async fn shown(
    readers: Vec<Following>,
    python: Option<python::Reader>,
    due: &HashMap<UserId, usize>,
) -> anyhow::Result<Logs> {
    let due = |user: &UserId| due.get(user).copied().unwrap_or(0);
    let mut logs = Logs::new();
    if let Some(python) = python {
        let due = due(python.user());
        logs.extend([python.finish(due, DEADLINE).await?]);
    }
    for Following { user, enough, task } in readers {
        enough.send_replace(Some(due(&user)));
        let what = format!("{user} to be shown {} entries", due(&user));
        let receiver = within(&what, DEADLINE, task).await?.context("a reader panicked")??;
        logs.insert(user, receiver.shown.entries);
    }
    Ok(logs)
}
