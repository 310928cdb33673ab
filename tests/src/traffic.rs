//! Sending and following by real clients: pipelining senders whose every intent and answer the oracle hears of, and
//! receivers that write down what they were shown.

mod pace;
mod receiver;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use iris_client::{Client, MessageKey, Pending, Receipt, SendError, UserId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::oracle::Oracle;
use crate::wait::within;
use crate::workload::{Errand, Message};

pub use pace::Pace;
pub use receiver::{Receiver, Shown};

/// How senders send.
#[derive(Clone)]
pub struct Style {
    /// Unanswered messages a sender has at most.
    pub depth: usize,
    /// How fast all of them together may send; as fast as they can if none.
    pub pace: Option<Arc<Pace>>,
}

/// What one sender, or all of them, came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages acked.
    pub acked: usize,
    /// Errors the client library let through, in words. None should be.
    pub errors: Vec<String>,
    /// SENDs the library repeated.
    pub resends: u64,
    /// Times the library reconnected.
    pub reconnects: u64,
}

/// One sender at work.
pub struct Sender {
    /// Its connection.
    pub client: Client,
    /// Who it is.
    pub user: UserId,
    /// Which of the user's devices.
    pub lane: u16,
    /// Where intents and answers are written down.
    pub oracle: Arc<Oracle>,
    /// How it sends.
    pub style: Style,
}

impl Sender {
    /// Sends all messages, or until `stop` is set, and waits for every answer.
    pub async fn run(self, messages: impl Iterator<Item = Message>, stop: watch::Receiver<bool>) -> Tally {
        let mut tally = Tally::default();
        let mut answers = FuturesUnordered::new();
        for message in messages {
            if *stop.borrow() {
                break;
            }
            // Answers are written down while the sender waits for its turn, and it waits for them when its pipeline is full.
            let mut turn = std::pin::pin!(self.turn());
            let mut is_turn = false;
            while !is_turn || answers.len() >= self.style.depth {
                tokio::select! {
                    () = &mut turn, if !is_turn => is_turn = true,
                    Some((key, outcome)) = answers.next() => self.settle(&mut tally, key, &outcome),
                }
            }
            let outgoing = self.oracle.intend(&self.user, self.lane, &message.recipient, message.body);
            let key = outgoing.key;
            match self.client.send(outgoing).await {
                Ok(pending) => answers.push(answer(key, pending)),
                Err(error) => self.settle(&mut tally, key, &Err(error.into())),
            }
        }
        while let Some((key, outcome)) = answers.next().await {
            self.settle(&mut tally, key, &outcome);
        }
        let stats = self.client.stats();
        tally.resends = stats.resends;
        tally.reconnects = stats.reconnects();
        tally
    }

    /// Waits until the pace lets this sender send one more.
    async fn turn(&self) {
        if let Some(pace) = &self.style.pace {
            pace.next().await;
        }
    }

    fn settle(&self, tally: &mut Tally, key: MessageKey, outcome: &Result<Receipt, SendError>) {
        self.oracle.settle(&self.user, key, outcome);
        match outcome {
            Ok(_) => tally.acked += 1,
            Err(error) => tally.errors.push(format!("{}: {error}", self.user)),
        }
    }
}

async fn answer(key: MessageKey, pending: Pending) -> (MessageKey, Result<Receipt, SendError>) {
    (key, pending.await)
}

/// Senders at work in the background.
pub struct Traffic {
    senders: JoinSet<Tally>,
    stop: watch::Sender<bool>,
}

impl Traffic {
    /// No sender yet.
    #[must_use]
    pub fn new() -> Self {
        Self { senders: JoinSet::new(), stop: watch::Sender::new(false) }
    }

    /// One sender for each errand, its connection spread over the nodes.
    ///
    /// # Errors
    /// A client could not be made.
    pub async fn errands(
        cluster: &Cluster,
        oracle: &Arc<Oracle>,
        errands: Vec<Errand>,
        style: &Style,
    ) -> anyhow::Result<Self> {
        let mut traffic = Self::new();
        for (at, errand) in errands.into_iter().enumerate() {
            let client = cluster.client_at(&errand.sender, "sender", at % cluster.len()).await?;
            let sender = Sender { client, user: errand.sender, lane: 0, oracle: oracle.clone(), style: style.clone() };
            traffic.add(sender, VecDeque::from(errand.messages).into_iter());
        }
        Ok(traffic)
    }

    /// Adds a sender.
    pub fn add(&mut self, sender: Sender, messages: impl Iterator<Item = Message> + Send + 'static) {
        self.senders.spawn(sender.run(messages, self.stop.subscribe()));
    }

    /// Lets the senders send no more, and waits for them as [`Self::finish`] does.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn stop(self, deadline: Duration) -> anyhow::Result<Tally> {
        self.stop.send_replace(true);
        self.finish(deadline).await
    }

    /// Waits until every sender has sent everything and has every answer.
    ///
    /// # Errors
    /// The deadline passed, or a sender panicked.
    pub async fn finish(mut self, deadline: Duration) -> anyhow::Result<Tally> {
        let mut total = Tally::default();
        let all = async {
            while let Some(tally) = self.senders.join_next().await {
                let tally = tally.context("a sender panicked")?;
                total.acked += tally.acked;
                total.errors.extend(tally.errors);
                total.resends += tally.resends;
                total.reconnects += tally.reconnects;
            }
            anyhow::Ok(())
        };
        within("every sender to have every answer", deadline, all).await??;
        Ok(total)
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new()
    }
}
