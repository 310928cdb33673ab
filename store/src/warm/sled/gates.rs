//! sled has no consistent view: whoever reads a shard as a whole holds back whoever would change it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use iris_protocol::ShardId;

use crate::warm::turns::lock;

/// One gate per shard, made when first used; a node has a handful.
#[derive(Debug, Default)]
pub(super) struct Gates {
    shards: Mutex<HashMap<ShardId, Gate>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    readers: usize,
    writing: bool,
}

/// The right to read or change a shard, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gates: Arc<Gates>,
    shard: ShardId,
    writes: bool,
}

impl Gates {
    /// Waits for a change to end.
    pub(super) fn read(self: &Arc<Self>, shard: ShardId) -> Pass {
        self.pass(shard, false, |gate| gate.writing)
    }

    /// Waits for every reader, and for another change.
    pub(super) fn write(self: &Arc<Self>, shard: ShardId) -> Pass {
        self.pass(shard, true, |gate| gate.writing || gate.readers > 0)
    }

    fn pass(self: &Arc<Self>, shard: ShardId, writes: bool, closed: impl Fn(&Gate) -> bool) -> Pass {
        let waiting = self.changed.wait_while(lock(&self.shards), |shards| closed(shards.entry(shard).or_default()));
        let mut shards = waiting.unwrap_or_else(PoisonError::into_inner);
        let gate = shards.entry(shard).or_default();
        if writes {
            gate.writing = true;
        } else {
            gate.readers += 1;
        }
        Pass { gates: self.clone(), shard, writes }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = lock(&self.gates.shards).get_mut(&self.shard) {
            if self.writes {
                gate.writing = false;
            } else {
                gate.readers -= 1;
            }
        }
        self.gates.changed.notify_all();
    }
}
