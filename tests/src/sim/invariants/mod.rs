//! What must hold in a world, one promise a file. Some are looked at all the while ([`Watcher`]), some by the clients as they go
//! (`client`), the rest once everything was healed and has settled.

mod cursors;
mod fifo;
mod ids_increase;
mod log_matching;
mod nothing_lost;
mod nothing_twice;
mod one_leader;
mod ready_leader;
mod recovery;
mod replicas_equal;

use iris_protocol::{EntryId, NodeId, UserId};
use iris_store::PageLimits;

use super::world::World;
use crate::oracle::{Logs, Seen, Verdict, hash, judge as judge_logs};
pub use recovery::{has_settled, why_not_settled};

/// What is looked at all the while.
#[derive(Debug, Default)]
pub struct Watcher {
    leaders: one_leader::Leaders,
    applied: log_matching::Applied,
    ready: ready_leader::Ready,
}

impl Watcher {
    /// One look.
    pub fn look(&mut self, world: &World) {
        for machine in &world.machines {
            let Some(member) = machine.member() else { continue };
            for group in iris_appliance::cluster::testing::groups(&member) {
                self.leaders.look(world, machine.place.node, &group);
                self.applied.look(world, machine.place.node, &group);
                self.ready.look(world, machine.place.node, &group);
            }
        }
    }
}

/// Judges a world that has settled.
pub fn judge(world: &World) {
    let replicas = replicas(world);
    for (node, logs) in &replicas {
        let verdict = {
            // A node answers for the inboxes it holds.
            let pages = world.book.pages();
            let held = pages.records.iter().filter(|record| logs.contains_key(&record.intent.recipient));
            judge_logs(&held.cloned().collect::<Vec<_>>(), logs)
        };
        nothing_lost::judge(world, *node, &verdict);
        nothing_twice::judge(world, *node, &verdict);
        fifo::judge(world, *node, &verdict);
        ids_increase::judge(world, *node, &verdict);
    }
    replicas_equal::judge(world, &replicas);
    replicas.iter().for_each(|(_, logs)| cursors::judge(world, logs));
}

/// Every node's own copy of every inbox.
fn replicas(world: &World) -> Vec<(NodeId, Logs)> {
    let running = world.machines.iter().filter_map(|machine| Some((machine.place.node, machine.member()?)));
    let replicas = running.map(|(node, member)| {
        let state = member.meta_view.borrow().clone();
        let mut logs = Logs::new();
        for user in world.users() {
            let shard = state.as_ref().map(|state| state.shard_of(&user)).unwrap_or_default();
            if let Some(group) = member.shards.by_id().get(&shard) {
                let mut inbox = whole_inbox(world, node, group, &user);
                if world.plan.trims {
                    inbox = with_what_was_received(world, &user, inbox);
                }
                logs.insert(user.clone(), inbox);
            }
        }
        (node, logs)
    });
    replicas.collect()
}

/// Where retention removes what its reader has, that counts as there.
fn with_what_was_received(world: &World, user: &UserId, inbox: Vec<Seen>) -> Vec<Seen> {
    let first = inbox.first().map(|seen| seen.id);
    let pages = world.book.pages();
    let devices = pages.received.iter().filter(|((reader, _), _)| reader == user);
    let received = devices.flat_map(|(at, received)| {
        let cursor = pages.cursors.get(at).copied().unwrap_or_default();
        received.iter().filter(move |seen| seen.id <= cursor && first.is_none_or(|first| seen.id < first))
    });
    received.cloned().chain(inbox.iter().cloned()).collect()
}

fn whole_inbox(world: &World, node: NodeId, group: &iris_appliance::cluster::ShardGroup, user: &UserId) -> Vec<Seen> {
    const ALL: PageLimits = PageLimits { entries_max: 100_000, bytes_max: 1 << 30 };
    match group.store.read(user, EntryId::ZERO, ALL) {
        Ok(page) => {
            let entries = page.entries.into_iter();
            let seen = |entry: iris_store::Entry| Seen {
                id: entry.id,
                key: entry.key,
                sender: entry.sender,
                hash: hash(&entry.body),
            };
            entries.map(seen).collect()
        }
        Err(error) => {
            world.book.broken("committed is there", world.now_ms, format!("node {node} can't read {user}: {error}"));
            Vec::new()
        }
    }
}

/// Says a promise is broken if a number is not zero.
fn none(world: &World, node: NodeId, invariant: &'static str, count: usize, verdict: &Verdict) {
    if count > 0 {
        world.book.broken(invariant, world.now_ms, format!("node {node}: {count}: {verdict}"));
    }
}
