//! One run of a plan: the faults, then the calm after them, in which everything must come right again; then the judgement.

use std::path::Path;

use super::book::Broken;
use super::client;
use super::invariants::{self, Watcher};
use super::plan::Plan;
use super::trace::Trace;
use super::world::World;
use crate::oracle::Fate;
use crate::seed::rng;

/// Virtual time in which a healed cluster must have come right: every send acked, everyone with everything.
const SETTLE_MS: u64 = 60_000;

/// Steps between two looks at what must always hold.
const WATCH_STEPS: u64 = 4;

/// Time for leaderships to move before everything is sent again.
const MOVE_MS: u64 = 1_500;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Messages that were acked.
    pub acked: usize,
    /// Reads that were said to be fresh, and were.
    pub fresh_reads: usize,
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// Everything that happened, as one number.
    pub hash: u64,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
}

/// Runs a plan. Its disks lie in `folder`, which is empty.
///
/// # Errors
/// The system has no room for it.
pub fn run(plan: Plan, folder: &Path, trace_to: Option<&Path>) -> anyhow::Result<Report> {
    let trace = Trace::new(trace_to)?;
    let mut run = Run { world: World::new(plan, folder, trace.clone())?, watcher: Watcher::default() };
    if let Err(error) = run.all() {
        run.world.book.broken("no node ends", run.world.now_ms, format!("{error:#}"));
    }
    let (acked, fresh_reads) = {
        let pages = run.world.book.pages();
        let acked = pages.records.iter().filter(|record| matches!(record.fate, Fate::Acked(_))).count();
        (acked, pages.fresh_reads)
    };
    Ok(Report {
        seed: run.world.plan.seed,
        acked,
        fresh_reads,
        virtual_ms: run.world.now_ms,
        hash: trace.hash(),
        broken: run.world.book.all_broken(),
    })
}

struct Run {
    world: World,
    watcher: Watcher,
}

impl Run {
    fn all(&mut self) -> anyhow::Result<()> {
        let faults = self.world.plan.faults.clone();
        for (at_ms, fault) in faults {
            if at_ms >= self.world.plan.calm_again_ms {
                break;
            }
            self.live_to(at_ms)?;
            self.world.suffer(fault)?;
        }
        self.live_to(self.world.plan.calm_again_ms)?;
        self.world.heal()?;
        if !self.live_until(SETTLE_MS, invariants::has_settled)? {
            let why = invariants::why_not_settled(&self.world);
            self.world.book.broken("recovery", self.world.now_ms, why);
            return Ok(());
        }
        invariants::judge(&self.world);
        self.send_again_everywhere()?;
        invariants::judge(&self.world);
        Ok(())
    }

    /// With each node as the leader in turn, everything is sent once more: each must know every key.
    fn send_again_everywhere(&mut self) -> anyhow::Result<()> {
        let nodes: Vec<_> = self.world.machines.iter().map(|machine| machine.place.node).collect();
        for (turn, node) in nodes.into_iter().enumerate() {
            (0..self.world.machines.len()).for_each(|from| self.world.give_away(from, node));
            self.live_to(self.world.now_ms + MOVE_MS * self.world.plan.tick_ms / 5)?;
            let done = std::sync::Arc::new(std::sync::Mutex::new(None));
            let (parts, told, window) = (self.world.parts(), done.clone(), self.world.plan.window.max(8));
            let draw = rng(self.world.plan.seed, &format!("again {turn}"));
            self.world.on_clients(async move {
                let all = client::resend(parts, window, draw).await;
                *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(all);
            });
            let is_done = |_: &World| *done.lock().unwrap_or_else(std::sync::PoisonError::into_inner) == Some(true);
            if !self.live_until(SETTLE_MS, is_done)? {
                let what = format!("what was acked could not be sent again through node {node}");
                self.world.book.broken("recovery", self.world.now_ms, what);
                return Ok(());
            }
        }
        if !self.live_until(SETTLE_MS, invariants::has_settled)? {
            let why = invariants::why_not_settled(&self.world);
            self.world.book.broken("recovery", self.world.now_ms, why);
        }
        Ok(())
    }

    fn live_to(&mut self, at_ms: u64) -> anyhow::Result<()> {
        while self.world.now_ms < at_ms {
            self.world.step()?;
            if self.world.now_ms.is_multiple_of(WATCH_STEPS * self.world.plan.tick_ms) {
                self.watcher.look(&self.world);
            }
        }
        Ok(())
    }

    /// `false` if it did not come true in time.
    fn live_until(&mut self, within_ms: u64, mut is_so: impl FnMut(&World) -> bool) -> anyhow::Result<bool> {
        let give_up = self.world.now_ms + within_ms * u64::from(self.world.plan.pace);
        while self.world.now_ms < give_up {
            self.live_to(self.world.now_ms + 10 * self.world.plan.tick_ms)?;
            if is_so(&self.world) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
