//! C5: once everything is healed, a cluster comes right by itself: every send is answered, every reader has everything, every
//! replica has applied all there is, and who was to join is in.

use std::collections::BTreeMap;

use iris_appliance::cluster::testing::{GroupSeen, groups};

use super::super::world::World;

/// Nodes that hold a shard, where there are so many (C3).
const COPIES: usize = 3;

/// Whether it has.
#[must_use]
pub fn has_settled(world: &World) -> bool {
    unsettled(world).is_none()
}

/// What is missing.
#[must_use]
pub fn why_not_settled(world: &World) -> String {
    unsettled(world).unwrap_or_else(|| "it just has".to_owned())
}

fn unsettled(world: &World) -> Option<String> {
    if !world.is_whole() {
        return Some("not every node has joined".to_owned());
    }
    let open = world.book.pages().open;
    if open > 0 {
        return Some(format!("{open} messages have no answer"));
    }
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut all = Vec::new();
    for machine in &world.machines {
        let node = machine.place.node;
        let Some(member) = machine.member() else { return Some(format!("node {node} does not run")) };
        let Some(state) = member.meta_view.borrow().clone() else {
            return Some(format!("node {node} has no meta state"));
        };
        let wanted = state.shards.iter().filter(|record| record.is_on(node)).count();
        let copies = world.machines.len().min(COPIES);
        let placed = state.shards.iter().all(|record| record.is_settled() && record.replicas.len() == copies);
        if member.shards.by_id().len() < wanted || !placed {
            return Some(format!("node {node} sees shards on their way: {:?}", state.shards));
        }
        for group in groups(&member) {
            let most = last.entry(group.group.clone()).or_default();
            *most = (*most).max(group.last_index.unwrap_or(0));
            all.push((node, group));
        }
    }
    let behind = |seen: &GroupSeen| seen.applied.as_ref().map_or(0, |(index, _)| *index) < last[&seen.group];
    if let Some((node, seen)) = all.iter().find(|(_, seen)| behind(seen)) {
        return Some(format!("node {node} has applied {:?} of {} in {}", seen.applied, last[&seen.group], seen.group));
    }
    readers_behind(world)
}

fn readers_behind(world: &World) -> Option<String> {
    let pages = world.book.pages();
    for ((user, device), received) in &pages.received {
        let newest = pages.records.iter().filter(|record| record.intent.recipient == *user);
        let newest = newest.filter_map(|record| match record.fate {
            crate::oracle::Fate::Acked(id) => Some(id),
            _ => None,
        });
        if newest.max() > received.last().map(|seen| seen.id) {
            return Some(format!("{user} on {device} has not received its last entry"));
        }
    }
    None
}
