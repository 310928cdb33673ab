//! What will happen in a world: drawn from its seed before it begins, and from nothing else. Sizes of the cluster, weather,
//! settings, traffic, and a schedule of faults, each with its end.

use std::time::Duration;

use iris_appliance::cluster::RaftTiming;
use iris_store::StoreOptions;
use iris_store::warm::Engine;
use rand::Rng;
use rand::rngs::StdRng;

use super::disk::Loss;
use super::net::Weather;
use super::node::Settings;
use crate::seed::rng;

/// One step of an ordinary world; no byte travels faster.
const TICK_MS: u64 = 5;

/// When the first fault may come: the cluster stands by then.
const CALM_MS: u64 = 3_000;

/// A world of a week: its steps, and how many times slower its clients, its faults and Raft's clocks are.
const WEEK_MS: u64 = 7 * 24 * 3_600_000;
const WEEK_TICK_MS: u64 = 100;
const WEEK_PACE: u32 = 200;

/// Everything about a world that is decided beforehand.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed it comes from.
    pub seed: u64,
    /// One step.
    pub tick_ms: u64,
    /// How many times longer than usual clients pause.
    pub pace: u32,
    /// Whether entries are removed once their readers have them.
    pub trims: bool,
    /// Unanswered sends of one sender to one inbox.
    pub window: usize,
    /// Nodes that found the cluster.
    pub founders: u64,
    /// Nodes that join it later, and when.
    pub joins: Vec<u64>,
    /// Shards.
    pub shards: u16,
    /// How nodes are configured.
    pub settings: Settings,
    /// The network.
    pub weather: Weather,
    /// Senders, and recipients.
    pub senders: u64,
    /// Recipients.
    pub users: u64,
    /// Between two messages of one sender.
    pub every_ms: std::ops::Range<u64>,
    /// Longest body. The log is purged in steps of 64 KiB, so that snapshots need long ones.
    pub body_len_max: usize,
    /// An fsync takes up to so long where no fault makes it longer.
    pub fsync_ms: u64,
    /// When everything is healed and nothing new is sent.
    pub calm_again_ms: u64,
    /// What happens, in order.
    pub faults: Vec<(u64, Fault)>,
}

/// What happens to the world. Nodes are counted from 0, and taken modulo those there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The node goes down.
    Crash(u64, Loss),
    /// Every node at once.
    CrashAll(Loss),
    /// It comes up again.
    Boot(u64),
    /// It is stopped in the middle of whatever it does.
    Pause(u64),
    /// It goes on.
    Resume(u64),
    /// Nothing gets from the one to the other.
    Cut(u64, u64),
    /// Something does.
    Uncut(u64, u64),
    /// Neither hears from any other node.
    Isolate(u64),
    /// Every link is whole again.
    Heal,
    /// So much slower from the one to the other.
    Slow(u64, u64, u64),
    /// The wall clock is off by so much.
    Clock(u64, i64),
    /// An fsync takes up to so long.
    Disk(u64, u64),
    /// The leaderships of one go to another.
    Move(u64, u64),
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut draw = rng(seed, "plan");
        let founders = if draw.random_bool(0.15) { 1 } else { 3 };
        let joins = joins(founders, &mut draw);
        let calm_again_ms = CALM_MS + draw.random_range(4_000..16_000);
        let nodes = founders + joins.len() as u64;
        let (few_keys, trims) = (draw.random_bool(0.5), draw.random_bool(0.2));
        let mut plan = Self {
            seed,
            tick_ms: TICK_MS,
            pace: 1,
            trims,
            window: if few_keys { 1 } else { 16 },
            founders,
            joins,
            shards: draw.random_range(1..=3),
            settings: settings(few_keys, trims, &mut draw),
            weather: Weather {
                latency_min_ms: TICK_MS,
                jitter_ms: draw.random_range(1..20),
                doubled_per_mille: if draw.random_bool(0.3) { draw.random_range(1..200) } else { 0 },
            },
            senders: draw.random_range(1..=4),
            users: draw.random_range(1..=4),
            every_ms: 20..draw.random_range(60..400),
            body_len_max: if draw.random_bool(0.5) { 64 } else { draw.random_range(4_000..30_000) },
            fsync_ms: [4, 4, 40, 250][draw.random_range(0..4)],
            calm_again_ms,
            faults: Vec::new(),
        };
        plan.draw_faults(nodes);
        plan
    }

    /// A week of a home's little traffic, with faults throughout.
    #[must_use]
    pub fn week(seed: u64) -> Self {
        let mut plan = Self::of(seed);
        (plan.tick_ms, plan.pace, plan.calm_again_ms) = (WEEK_TICK_MS, WEEK_PACE, WEEK_MS);
        plan.weather.latency_min_ms = WEEK_TICK_MS;
        plan.settings.timing = RaftTiming { heartbeat_ms: 2_000, election_ms_min: 6_000, election_ms_max: 12_000 };
        plan.settings.checkpoint_every = Duration::from_secs(60);
        plan.body_len_max = plan.body_len_max.min(1_000);
        (plan.founders, plan.joins) = (3, vec![WEEK_MS / 3]);
        plan.every_ms = 20..1_000;
        plan.faults.clear();
        plan.draw_faults(4);
        plan
    }

    fn draw_faults(&mut self, nodes: u64) {
        let mut when = rng(self.seed, "faults");
        let busy = when.random_range(400..2_500) * u64::from(self.pace);
        let mut at_ms = CALM_MS * u64::from(self.pace);
        loop {
            at_ms += when.random_range(50..busy);
            if at_ms >= self.calm_again_ms {
                break;
            }
            self.add_fault(at_ms, nodes, &mut when);
        }
        self.faults.sort_by_key(|(at_ms, _)| *at_ms);
    }

    fn add_fault(&mut self, at_ms: u64, nodes: u64, draw: &mut StdRng) {
        let (node, other) = (draw.random_range(0..nodes), draw.random_range(0..nodes));
        let end_ms = at_ms + draw.random_range(200..6_000) * u64::from(self.pace);
        let losses = [Loss::Nothing, Loss::Unsynced, Loss::Torn];
        let loss = losses[draw.random_range(0..losses.len())];
        let (begin, end) = match draw.random_range(0..100) {
            0..20 => (Fault::Crash(node, loss), Some(Fault::Boot(node))),
            20..30 => {
                self.faults.extend((0..nodes).map(|node| (end_ms + draw.random_range(0..1_000), Fault::Boot(node))));
                (Fault::CrashAll(loss), None)
            }
            30..40 => (Fault::Pause(node), Some(Fault::Resume(node))),
            40..55 => (Fault::Isolate(node), Some(Fault::Heal)),
            55..67 => (Fault::Cut(node, other), Some(Fault::Uncut(node, other))),
            67..73 => (Fault::Slow(node, other, draw.random_range(50..800)), Some(Fault::Slow(node, other, 0))),
            73..80 => (Fault::Clock(node, clock_jump(draw)), None),
            80..86 => (Fault::Disk(node, draw.random_range(50..600)), Some(Fault::Disk(node, self.fsync_ms))),
            _ => (Fault::Move(node, other), None),
        };
        self.faults.push((at_ms, begin));
        self.faults.extend(end.map(|end| (end_ms, end)));
    }
}

fn joins(founders: u64, draw: &mut StdRng) -> Vec<u64> {
    let most = if founders == 1 { 2 } else { u64::from(draw.random_bool(0.15)) };
    (0..most).map(|_| CALM_MS + draw.random_range(0..6_000)).collect()
}

fn settings(few_keys: bool, trims: bool, draw: &mut StdRng) -> Settings {
    Settings {
        timing: RaftTiming { heartbeat_ms: 100, election_ms_min: 300, election_ms_max: 600 },
        checkpoint_every: Duration::from_millis(draw.random_range(100..3_000)),
        keep: if trims { Duration::from_millis(500) } else { Duration::from_secs(365 * 24 * 3_600) },
        // Nothing kept behind a checkpoint: whoever was away needs a snapshot.
        log_bytes_max: if draw.random_bool(0.6) { 0 } else { 1 << 20 },
        store: StoreOptions {
            // An eighth of them may come between a look and its apply: about what the senders have under way.
            dedup_recent_keys: if few_keys { 160 } else { 65_536 },
            dedup_bucket_keys_max: if few_keys { 20 } else { 10_000 },
            ..StoreOptions::default()
        },
        engine: Engine::Sqlite,
    }
}

/// Half a minute either way, or as after a boot without a battery.
fn clock_jump(draw: &mut StdRng) -> i64 {
    match draw.random_range(0..5) {
        0 => -1_790_000_000_000,
        1 => 0,
        _ => draw.random_range(-30_000..30_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_its_seeds_and_every_kind_of_fault_occurs() {
        let shown = |seed| format!("{:?}", Plan::of(seed));
        assert_eq!(shown(7), shown(7));
        assert_ne!(shown(7), shown(8));
        let all: String = (0..60).map(shown).collect();
        for kind in ["Crash(", "CrashAll(", "Pause(", "Isolate(", "Cut(", "Slow(", "Clock(", "Disk(", "Move("] {
            assert!(all.contains(kind), "{kind}");
        }
    }
}
