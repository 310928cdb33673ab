//! The breaker against a model that knows nothing of words and bits, and from many threads at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use proptest::prelude::*;

use super::*;

#[test]
fn five_failures_in_a_row_open_it_and_one_probe_closes_it() {
    let breaker = Breaker::new();
    for at in 0..4 {
        assert!(!breaker.failed(at, at) && breaker.allows(at));
    }
    assert!(breaker.failed(4, 4), "the fifth opens it");
    assert!(!breaker.allows(5) && !breaker.allows(4 + OPEN_FOR_MS - 1));
    let probe = 4 + OPEN_FOR_MS;
    assert!(breaker.allows(probe) && !breaker.allows(probe), "one probe");
    assert!(breaker.failed(probe, probe + 10) && !breaker.allows(probe + 11), "its failure opens it again");
    let probe = probe + 10 + OPEN_FOR_MS;
    assert!(breaker.allows(probe));
    breaker.heard(probe + 1);
    assert!(breaker.allows(probe + 2) && breaker.allows(probe + 2));
    assert_eq!((breaker.opened(), breaker.state()), (1, State::Closed { failures: 0 }));
}

#[test]
fn a_probe_that_was_given_up_blocks_nobody_for_long() {
    let breaker = Breaker::new();
    for at in 0..5 {
        breaker.failed(at, at);
    }
    let probe = 4 + OPEN_FOR_MS;
    assert!(breaker.allows(probe) && !breaker.allows(probe + PROBE_FOR_MS - 1) && breaker.allows(probe + PROBE_FOR_MS));
}

#[test]
fn a_slow_call_is_no_failure_of_a_peer_that_was_heard_of_meanwhile() {
    let breaker = Breaker::new();
    for call in 0..50 {
        breaker.heard(call * 10 + 5);
        assert!(!breaker.failed(call * 10, call * 10 + 9));
    }
    assert_eq!(breaker.state(), State::Closed { failures: 0 });
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(u64),
    Ask,
    Fail,
    Hear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1u64..40_000).prop_map(Step::Wait),
        Just(Step::Ask),
        Just(Step::Ask),
        Just(Step::Fail),
        Just(Step::Fail),
        Just(Step::Fail),
        Just(Step::Hear),
    ];
    prop::collection::vec(step, 0..200)
}

/// What it should do, told by its history alone.
#[derive(Default)]
struct Model {
    row: u64,
    /// When it last opened, and since when a probe is under way.
    opened: Option<u64>,
    probe: Option<u64>,
}

proptest! {
    #[test]
    fn it_does_what_its_history_says(steps in steps()) {
        let (breaker, mut model, mut now) = (Breaker::new(), Model::default(), 0);
        for step in steps {
            match step {
                // A call made in the very millisecond in which the peer was heard of is excused; here none is.
                Step::Wait(ms) => now += ms,
                Step::Hear => {
                    now += 2;
                    breaker.heard(now);
                    now += 2;
                    model = Model::default();
                }
                Step::Fail => {
                    breaker.failed(now, now);
                    model.row += 1;
                    let fails_probe = model.probe.take().is_some();
                    if fails_probe || (model.opened.is_none() && model.row >= FAILURES_MAX) {
                        model.opened = Some(now);
                    }
                }
                Step::Ask => {
                    let may = match (model.opened, model.probe) {
                        (None, _) => true,
                        (Some(opened), None) => now >= opened + OPEN_FOR_MS,
                        (Some(_), Some(probe)) => now >= probe + PROBE_FOR_MS,
                    };
                    prop_assert_eq!(breaker.allows(now), may);
                    if may && model.opened.is_some() { model.probe = Some(now) }
                }
            }
            prop_assert_eq!(breaker.state().is_closed(), model.opened.is_none());
        }
    }

    #[test]
    fn a_state_fits_into_a_word(value in 0u64..1 << 60) {
        for state in [State::Closed { failures: value }, State::Open { until_ms: value }, State::Probing { until_ms: value }] {
            prop_assert_eq!(State::unpack(state.pack()), state);
        }
    }
}

/// Runs the same in so many threads, all let go at once, and adds up what they return.
fn together(threads: usize, run: impl Fn() -> u64 + Send + Sync + 'static) -> u64 {
    let (run, barrier, sum) = (Arc::new(run), Arc::new(Barrier::new(threads)), Arc::new(AtomicU64::new(0)));
    let running: Vec<_> = (0..threads)
        .map(|_| {
            let (run, barrier, sum) = (run.clone(), barrier.clone(), sum.clone());
            std::thread::spawn(move || {
                barrier.wait();
                sum.fetch_add(run(), Ordering::Relaxed);
            })
        })
        .collect();
    running.into_iter().for_each(|thread| thread.join().unwrap());
    sum.load(Ordering::Relaxed)
}

#[test]
fn of_many_that_ask_at_once_one_is_the_probe_and_of_many_failures_one_opens_it() {
    for round in 1..200 {
        let breaker = Arc::new(Breaker::new());
        let (failing, asking) = (breaker.clone(), breaker.clone());
        let opened = together(8, move || (0..4).filter(|_| failing.failed(round, round)).count() as u64);
        assert_eq!((opened, breaker.opened()), (1, 1));
        let probes = together(8, move || (0..4).filter(|_| asking.allows(round + OPEN_FOR_MS)).count() as u64);
        assert_eq!(probes, 1, "round {round}");
    }
}

#[test]
fn no_failure_in_a_race_is_forgotten() {
    for round in 1..200 {
        let breaker = Arc::new(Breaker::new());
        let failing = breaker.clone();
        together(4, move || failing.failed(round, round).into());
        assert_eq!(breaker.state(), State::Closed { failures: 4 }, "round {round}");
    }
}
