//! The receivers of a play: most follow from the beginning to the end; some leave after a few entries and come back later,
//! to go on where their acked cursor stands.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use iris_client::UserId;
use rand::seq::SliceRandom;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::cluster::Cluster;
use crate::oracle::{Logs, Oracle};
use crate::seed::rng;
use crate::traffic::Receiver;
use crate::wait::within;

/// One receiver in so many leaves and comes back.
const LATE_ONE_IN: usize = 4;

/// Entries after which a receiver leaves.
const LEAVES_AFTER: usize = 5;

/// The device that receives; its cursor is what a receiver comes back to.
const DEVICE: &str = "receiver";

/// Following until told how much is enough.
struct Follower {
    enough: watch::Sender<Option<usize>>,
    task: JoinHandle<anyhow::Result<Receiver>>,
}

pub(super) struct Receivers {
    following: HashMap<UserId, Follower>,
    away: JoinSet<anyhow::Result<Receiver>>,
    /// Tells those who are leaving that they have seen enough, however little that is.
    leave: watch::Sender<Option<usize>>,
    live: usize,
    late: usize,
}

impl Receivers {
    pub(super) async fn start(cluster: &Cluster, users: &[UserId], seed: u64) -> anyhow::Result<Self> {
        let mut shuffled = users.to_vec();
        shuffled.shuffle(&mut rng(seed, "receivers"));
        let late = users.len() / LATE_ONE_IN;
        let mut receivers = Self {
            following: HashMap::new(),
            away: JoinSet::new(),
            leave: watch::Sender::new(Some(LEAVES_AFTER)),
            live: users.len() - late,
            late,
        };
        for (at, user) in shuffled.into_iter().enumerate() {
            let client = cluster.client_at(&user, DEVICE, at % cluster.len()).await?;
            let receiver = Receiver::new(user);
            if at < late {
                receivers.away.spawn(receiver.follow(client, receivers.leave.subscribe()));
            } else {
                receivers.follow(receiver, client);
            }
        }
        Ok(receivers)
    }

    fn follow(&mut self, receiver: Receiver, client: iris_client::Client) {
        let (enough, told) = watch::channel(None);
        let user = receiver.user.clone();
        let task = tokio::spawn(receiver.follow(client, told));
        self.following.insert(user, Follower { enough, task });
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn late(&self) -> usize {
        self.late
    }

    /// Those who left connect anew and follow to the end.
    pub(super) async fn come_back(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        self.leave.send_replace(Some(0));
        while let Some(receiver) = self.away.join_next().await {
            let receiver = receiver??;
            let client = cluster.client(&receiver.user, DEVICE).await?;
            self.follow(receiver, client);
        }
        Ok(())
    }

    /// Waits until everybody was shown what was acked to them, and returns what they were shown.
    pub(super) async fn finish(self, oracle: &Oracle, deadline: Duration) -> anyhow::Result<Logs> {
        let mut due: HashMap<UserId, usize> = HashMap::new();
        for record in oracle.records() {
            *due.entry(record.intent.recipient).or_default() += 1;
        }
        let mut logs = Logs::new();
        for (user, Follower { enough, task }) in self.following {
            let due = due.get(&user).copied().unwrap_or(0);
            enough.send_replace(Some(due));
            let what = format!("{user} to be shown {due} entries");
            let receiver = within(&what, deadline, task).await?.context("a receiver panicked")??;
            logs.insert(receiver.user, receiver.shown.entries);
        }
        Ok(logs)
    }
}
