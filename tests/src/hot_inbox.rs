//! One inbox that gets more than all others together (A11): many senders to a user who is not there, the user who then comes and
//! reads it all, and what others of the same shard notice of it. Messages carry their sender and number, so that a reader can
//! judge a million of them without a book.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use iris_client::{Client, EntryId, Event, Outgoing, SubscribeFrom, UserId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bench::latency::Latencies;
use crate::cluster::Cluster;
use crate::wait::within;
use crate::workload::users;

/// Longest a reader may take.
const READ_DEADLINE: Duration = Duration::from_secs(600);

/// Entries on their way to a reader.
const CREDIT: u32 = 1_024;

/// A sender and a number, before the filling.
const HEAD_LEN: usize = 12;

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// By all senders together.
    pub messages: u64,
    /// Each with a connection and a user of its own.
    pub senders: u32,
    /// Unanswered messages each has.
    pub depth: usize,
    /// Bytes of a message's body.
    pub bytes: usize,
}

impl Flood {
    fn each(&self) -> u64 {
        self.messages / u64::from(self.senders)
    }

    /// How many are really sent.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.each() * u64::from(self.senders)
    }
}

fn body(sender: u32, number: u64, len: usize) -> Bytes {
    let mut body = Vec::with_capacity(len.max(HEAD_LEN));
    body.extend_from_slice(&sender.to_be_bytes());
    body.extend_from_slice(&number.to_be_bytes());
    body.resize(len.max(HEAD_LEN), 0x5a);
    body.into()
}

fn head(body: &[u8]) -> Option<(u32, u64)> {
    let (sender, rest) = body.split_first_chunk::<4>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    Some((u32::from_be_bytes(*sender), u64::from_be_bytes(*number)))
}

/// Sends it all, to these recipients in turn; how long it took.
///
/// # Errors
/// A message is not acked.
pub async fn flood(cluster: &Cluster, recipients: &[UserId], flood: Flood) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for (number, user) in (0..flood.senders).zip(users("flooder-", flood.senders as usize)?) {
        let client = cluster.client_at(&user, "flood", number as usize % cluster.len()).await?;
        senders.spawn(send(client, recipients.to_vec(), number, flood));
    }
    while let Some(sent) = senders.join_next().await {
        sent.context("a sender panicked")??;
    }
    Ok(began.elapsed())
}

async fn send(client: Client, recipients: Vec<UserId>, sender: u32, flood: Flood) -> anyhow::Result<()> {
    let mut answers = FuturesUnordered::new();
    for number in 0..flood.each() {
        while answers.len() >= flood.depth {
            let answer: Option<Result<_, iris_client::SendError>> = answers.next().await;
            answer.transpose().context("a message was not acked")?;
        }
        let recipient = recipients[(number % recipients.len() as u64) as usize].clone();
        answers.push(client.send(Outgoing::new(recipient, body(sender, number, flood.bytes))).await?);
    }
    while let Some(answer) = answers.next().await {
        answer.context("a message was not acked")?;
    }
    client.close(Duration::from_secs(5)).await;
    Ok(())
}

/// What a reader was shown of a flood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Entries.
    pub entries: u64,
    /// Of the flood, not shown.
    pub lost: u64,
    /// Shown again.
    pub doubled: u64,
    /// Ids that did not grow.
    pub unordered: u64,
    /// By sender, what comes next.
    next: Vec<u64>,
    last: EntryId,
}

impl Shown {
    fn new(senders: u32) -> Self {
        Self { next: vec![0; senders as usize], ..Self::default() }
    }

    fn take(&mut self, id: EntryId, body: &[u8]) -> anyhow::Result<()> {
        let (sender, number) = head(body).context("an entry that is none of the flood's")?;
        let next = self.next.get_mut(sender as usize).context("an entry of an unknown sender")?;
        self.entries += 1;
        self.unordered += u64::from(id <= self.last);
        self.last = id;
        if number < *next {
            self.doubled += 1;
        } else {
            self.lost += number - *next;
            *next = number + 1;
        }
        Ok(())
    }

    fn end(&mut self, each: u64) {
        self.lost += self.next.iter().map(|next| each.saturating_sub(*next)).sum::<u64>();
    }
}

/// The user comes, reads everything through this node, and acks it; what was shown, and how long it took.
///
/// # Errors
/// The node can't be reached, or the reader does not get to the end.
pub async fn read_all(
    cluster: &Cluster,
    user: &UserId,
    device: &str,
    node: usize,
    flood: Flood,
) -> anyhow::Result<(Shown, Duration)> {
    let began = Instant::now();
    let client = cluster.client_of_one(user, device, node).await?;
    let mut inbox = client.subscribe(SubscribeFrom::Stored, CREDIT)?;
    let mut shown = Shown::new(flood.senders);
    let read = async {
        while let Event::Entry(entry) = inbox.next().await? {
            shown.take(entry.id, &entry.body)?;
            client.ack(entry.id);
        }
        anyhow::Ok(())
    };
    within("the absent user to read everything", READ_DEADLINE, read).await??;
    let took = began.elapsed();
    client.flush_acks(Duration::from_secs(60)).await.context("making the reader's cursor durable")?;
    client.close(Duration::from_secs(5)).await;
    shown.end(flood.each());
    Ok((shown, took))
}

/// So many users whose inboxes are in the same shard as this one's.
///
/// # Errors
/// Never: there are names enough.
pub fn neighbours(cluster: &Cluster, user: &UserId, count: usize) -> anyhow::Result<Vec<UserId>> {
    let shard = cluster.shard_of(user);
    let all = users("neighbour-", count * 200)?;
    let near: Vec<UserId> = all.into_iter().filter(|other| cluster.shard_of(other) == shard).take(count).collect();
    if near.len() < count {
        bail!("only {} of {count} users share the shard", near.len());
    }
    Ok(near)
}

/// What it takes to have a message acked by one of the shard's other users, one after the other, through every node, until `stop`.
///
/// # Errors
/// A message is not acked.
pub async fn others(
    cluster: &Cluster,
    recipients: &[UserId],
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Latencies> {
    let mut senders = JoinSet::new();
    for (at, user) in users("other-", cluster.len())?.into_iter().enumerate() {
        let client = cluster.client_at(&user, "other", at).await?;
        client.connected().await?;
        let (recipients, stop) = (recipients.to_vec(), stop.clone());
        senders.spawn(async move {
            let mut latencies = Latencies::new()?;
            for recipient in recipients.iter().cycle() {
                if *stop.borrow() {
                    break;
                }
                let began = Instant::now();
                client.send_and_wait(Outgoing::new(recipient.clone(), "from another")).await?;
                latencies.record(began.elapsed());
            }
            client.close(Duration::from_secs(5)).await;
            anyhow::Ok(latencies)
        });
    }
    let mut all = Latencies::new()?;
    while let Some(latencies) = senders.join_next().await {
        all.add(&latencies.context("a sender panicked")??)?;
    }
    Ok(all)
}

/// Does something while others send; what it came to, and what they noticed.
///
/// # Errors
/// Of both.
pub async fn beside<T>(
    cluster: &Cluster,
    recipients: &[UserId],
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Latencies)> {
    let stop = watch::Sender::new(false);
    let told = stop.subscribe();
    let work = async {
        let done = work.await;
        stop.send_replace(true);
        done
    };
    let (done, latencies) = tokio::join!(work, others(cluster, recipients, told));
    Ok((done?, latencies?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_is_lost_doubled_or_out_of_order() {
        let check = |entries: &[(u64, u32, u64)], lost: u64, doubled: u64, unordered: u64| {
            let mut shown = Shown::new(2);
            for (id, sender, number) in entries {
                shown.take(EntryId(*id), &body(*sender, *number, 40)).unwrap();
            }
            shown.end(2);
            assert_eq!((shown.lost, shown.doubled, shown.unordered), (lost, doubled, unordered));
        };
        check(&[(1, 0, 0), (2, 1, 0), (3, 0, 1), (4, 1, 1)], 0, 0, 0);
        check(&[(1, 0, 0), (2, 1, 0), (3, 0, 1)], 1, 0, 0);
        check(&[(1, 0, 0), (2, 1, 0), (2, 0, 1), (4, 1, 1), (5, 1, 1)], 0, 1, 1);
        check(&[(1, 0, 1), (2, 0, 0), (3, 1, 0), (4, 1, 1)], 1, 1, 0);
    }
}
