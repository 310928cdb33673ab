//! A1: every replica has the same inboxes.

use iris_protocol::NodeId;

use super::super::world::World;
use crate::oracle::Logs;

const NAME: &str = "replicas are equal (A1)";

pub(super) fn judge(world: &World, replicas: &[(NodeId, Logs)]) {
    for (at, (one, here)) in replicas.iter().enumerate() {
        for (other, there) in &replicas[at + 1..] {
            for (user, log) in here {
                let Some(same) = there.get(user).filter(|same| *same != log) else { continue };
                let parts = log.iter().zip(same).take_while(|(a, b)| a == b).count();
                let what = format!(
                    "{user}'s log on nodes {one} and {other}: {} and {} entries, the first difference at {parts}",
                    log.len(),
                    same.len()
                );
                world.book.broken(NAME, world.now_ms, what);
            }
        }
    }
}
