//! sled has no consistent view: whoever reads a shard as a whole holds back whoever would change it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use iris_protocol::ShardId;

use crate::warm::turns::lock;

/// One gate per shard, made when first used; a node has a handful.
#[derive(Debug, Default)]
pub(super) struct Gates {
    shards: Mutex<Shards>,
    changed: Condvar,
}

type Shards = HashMap<ShardId, Gate>;

#[derive(Debug, Default)]
struct Gate {
    readers: usize,
    writing: bool,
}

impl Gate {
    fn is_closed_to_writers(&self) -> bool {
        self.writing || self.readers > 0
    }
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
        let waiting = self.changed.wait_while(lock(&self.shards), |shards| shards.entry(shard).or_default().writing);
        waiting.unwrap_or_else(PoisonError::into_inner).entry(shard).or_default().readers += 1;
        Pass { gates: self.clone(), shard, writes: false }
    }

    /// Waits for every reader, and for another change.
    pub(super) fn write(self: &Arc<Self>, shard: ShardId) -> Pass {
        let closed = |shards: &mut Shards| shards.entry(shard).or_default().is_closed_to_writers();
        let waiting = self.changed.wait_while(lock(&self.shards), closed);
        self.enter_to_write(&mut waiting.unwrap_or_else(PoisonError::into_inner), shard)
    }

    /// As [`Self::write`]; `None` if the gate doesn't open in time.
    pub(super) fn write_within(self: &Arc<Self>, shard: ShardId, patience: Duration) -> Option<Pass> {
        let closed = |shards: &mut Shards| shards.entry(shard).or_default().is_closed_to_writers();
        let waiting = self.changed.wait_timeout_while(lock(&self.shards), patience, closed);
        let (mut shards, wait) = waiting.unwrap_or_else(PoisonError::into_inner);
        (!wait.timed_out()).then(|| self.enter_to_write(&mut shards, shard))
    }

    fn enter_to_write(self: &Arc<Self>, shards: &mut Shards, shard: ShardId) -> Pass {
        shards.entry(shard).or_default().writing = true;
        Pass { gates: self.clone(), shard, writes: true }
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
