//! The demo: real messages among many users, pipelined through all nodes, receivers that follow live and some that come back
//! later, kill -9 of the node that leads most at one third, of another at two thirds, once the first is back. Then everything
//! is counted, from what the receivers were shown and from what the inboxes hold.

mod receivers;
mod report;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::cluster::Cluster;
use crate::oracle::Oracle;
use crate::seed::rng;
use crate::traffic::{Pace, Style, Traffic};
use crate::verify::verify;
use crate::workload::{correspondence, users};
use receivers::Receivers;
pub use report::Report;

/// Longest a third of the messages may take to be acked, failover included.
const THIRD_DEADLINE: Duration = Duration::from_secs(180);

/// Longest receivers may take to be shown the rest once everything is sent.
const RECEIVE_DEADLINE: Duration = Duration::from_secs(120);

/// Messages that may be on their way beyond two thirds while the first node is not back yet, as a part of all.
const AHEAD: usize = 20;

/// What is played.
#[derive(Debug, Clone)]
pub struct Play {
    /// Users, each sender and receiver.
    pub users: usize,
    /// Messages of the corpus.
    pub messages: usize,
    /// Unanswered messages a sender has at most.
    pub depth: usize,
    /// Messages a second, all senders together.
    pub per_s: u32,
    /// Who sends what to whom, and who receives later.
    pub seed: u64,
}

/// Where progress goes.
pub trait Progress: Send {
    /// One line.
    fn say(&mut self, line: &dyn Display);
    /// So many of all are acked. Called several times a second.
    fn acked(&mut self, acked: usize, of: usize);
}

/// Plays it on a cluster of at least three nodes.
///
/// # Errors
/// Something that makes counting pointless: a node does not come back, acks do not come.
pub async fn play(cluster: &mut Cluster, play: &Play, progress: &mut dyn Progress) -> anyhow::Result<Report> {
    let oracle = Arc::new(Oracle::new());
    let users = users("user-", play.users)?;
    let plan = correspondence(&mut rng(play.seed, "plan"), &users, play.messages);
    progress.say(&format_args!("{} users, {} messages, seed {}", play.users, play.messages, play.seed));

    let mut receivers = Receivers::start(cluster, &users, play.seed).await?;
    progress.say(&format_args!("{} receivers follow live, {} come back later", receivers.live(), receivers.late()));
    let (third, two_thirds) = (play.messages / 3, 2 * play.messages / 3);
    let pace = Pace::up_to(play.per_s, two_thirds + play.messages / AHEAD);
    let style = Style { depth: play.depth, pace: Some(pace.clone()) };
    let traffic = Traffic::errands(cluster, &oracle, plan, &style).await?;

    reach(&oracle, third, play.messages, progress).await?;
    let first = cluster.leading_most().await?;
    cluster.kill9(first)?;
    progress.say(&format_args!("kill -9 of node {}, which led most shards, at {} acked", first + 1, oracle.acked()));
    reach(&oracle, third + play.messages / AHEAD, play.messages, progress).await?;
    cluster.start_node(first)?;
    cluster.wait_ready().await?;
    progress.say(&format_args!("node {} is back, at {} acked", first + 1, oracle.acked()));
    reach(&oracle, two_thirds, play.messages, progress).await?;
    let second = another(cluster, first).await?;
    cluster.kill9(second)?;
    progress.say(&format_args!("kill -9 of node {}, at {} acked", second + 1, oracle.acked()));
    pace.raise(usize::MAX);
    receivers.come_back(cluster).await?;
    progress.say(&format_args!("the receivers that had left are back"));
    reach(&oracle, play.messages, play.messages, progress).await?;
    let tally = traffic.finish(THIRD_DEADLINE).await?;

    progress.say(&format_args!("everything is sent; waiting for the receivers"));
    let shown = receivers.finish(&oracle, RECEIVE_DEADLINE).await?;
    let longest_gap = oracle.longest_gap();
    cluster.heal().await?;
    progress.say(&format_args!("node {} is back; reading every inbox through every node", second + 1));
    let stored = verify(cluster, &oracle).await.context("reading the inboxes")?;
    Ok(Report {
        messages: play.messages,
        received: oracle.judge(&shown),
        stored,
        kills: 2,
        longest_gap,
        errors: tally.errors,
        resends: tally.resends,
        reconnects: tally.reconnects,
    })
}

/// The node that leads most shards of those that were not killed yet.
async fn another(cluster: &mut Cluster, but: usize) -> anyhow::Result<usize> {
    let leaders = cluster.leaders().await?;
    let others = cluster.running().into_iter().filter(|index| *index != but);
    let led = |index: &usize| leaders.values().filter(|leader| *leader == index).count();
    others.max_by_key(led).context("no other node runs")
}

/// Waits until so many are acked, and shows how far it is.
async fn reach(oracle: &Oracle, acked: usize, of: usize, progress: &mut dyn Progress) -> anyhow::Result<()> {
    let mut reached = std::pin::pin!(oracle.wait_acked(acked, THIRD_DEADLINE));
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            reached = &mut reached => {
                progress.acked(oracle.acked(), of);
                return reached;
            }
            _ = ticks.tick() => progress.acked(oracle.acked(), of),
        }
    }
}
