//! A7, A8: a device that follows its inbox receives every entry, in order: no cursor passes an entry that was not delivered.

use super::super::world::World;
use crate::oracle::Logs;

const NAME: &str = "every entry is delivered (A7, A8)";

pub(super) fn judge(world: &World, logs: &Logs) {
    let mut wrong = Vec::new();
    for ((user, device), received) in &world.book.pages().received {
        let Some(log) = logs.get(user) else { continue };
        let skipped = log.iter().find(|entry| !received.contains(entry));
        if let Some(skipped) = skipped {
            wrong.push(format!("{user} on {device} never received {}", skipped.id));
        } else if received != log {
            wrong.push(format!("{user} on {device} received {} entries of {}", received.len(), log.len()));
        }
    }
    wrong.into_iter().for_each(|what| world.book.broken(NAME, world.now_ms, what));
}
