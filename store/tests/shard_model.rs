//! The shard's state against a naive model (A2, A3, A8): whatever is applied, wherever checkpoints and restarts fall, the
//! outcomes and reads are the model's, each key has one entry, and ids only grow.
#![allow(clippy::unwrap_used, clippy::panic)]

mod model;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, MessageKey, ShardId, UserId};
use iris_store::{Item, NewMessage, Outcome, PageLimits, ShardStore, StoreOptions, Warm, decode_batch, encode_batch};
use model::Model;
use proptest::prelude::*;

/// A window of 50 ms and 12 keys: small enough that both bind within a case.
const WINDOW_MS: u64 = 50;
const KEYS_MAX: usize = 12;
const WIDE: PageLimits = PageLimits { entries_max: 10_000, bytes_max: 1 << 30 };

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<Spec>),
    Blank,
    Checkpoint,
    Restart,
}

#[derive(Debug, Clone)]
enum Spec {
    Message { sender: u8, key: u8, recipient: u8, body: u8, advance_ms: i8 },
    Cursor { user: u8, device: u8, back: u8 },
}

fn spec() -> impl Strategy<Value = Spec> {
    prop_oneof![
        4 => (0..3u8, 0..6u8, 0..3u8, 0..2u8, -20..30i8).prop_map(|(sender, key, recipient, body, advance_ms)| {
            Spec::Message { sender, key, recipient, body, advance_ms }
        }),
        1 => (0..3u8, 0..2u8, any::<u8>()).prop_map(|(user, device, back)| Spec::Cursor { user, device, back }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(spec(), 0..8).prop_map(Step::Apply),
        1 => Just(Step::Blank),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
    ]
}

fn user(number: u8) -> UserId {
    UserId::new(format!("user {number}")).unwrap()
}

fn device(number: u8) -> DeviceId {
    DeviceId::new(format!("device {number}")).unwrap()
}

fn items(specs: &[Spec], clock_ms: &mut u64, last: EntryId) -> Vec<Item> {
    let item = |spec: &Spec| match *spec {
        Spec::Message { sender, key, recipient, body, advance_ms } => {
            *clock_ms = clock_ms.saturating_add_signed(advance_ms.into());
            Item::Message(NewMessage {
                sender: user(sender),
                key: MessageKey([key; 16]),
                recipient: user(recipient),
                kind: u16::from(body),
                stamp: EntryId(*clock_ms << 16),
                body: Bytes::from(vec![body; usize::from(body) * 10]),
            })
        }
        Spec::Cursor { user: name, device: which, back } => Item::Cursor {
            user: user(name),
            device: device(which),
            cursor: EntryId((last.0 + 100).saturating_sub(u64::from(back) << 14)),
            seen: EntryId(*clock_ms << 16),
        },
    };
    specs.iter().map(item).collect()
}

fn open(path: &Path) -> ShardStore {
    let options = StoreOptions {
        dedup_window: Duration::from_millis(WINDOW_MS),
        dedup_keys_max: KEYS_MAX,
        ..StoreOptions::default()
    };
    ShardStore::open(Arc::new(Warm::open(path).unwrap()), ShardId(3), options).unwrap()
}

fn log_id(index: u64) -> Bytes {
    Bytes::from(format!("log id {index}"))
}

/// The log, with the outcomes each entry had: what a restart applies again must answer the same.
type Log = Vec<(u64, Option<(Bytes, Vec<Outcome>)>)>;

fn restart(store: ShardStore, path: &Path, log: &Log) -> ShardStore {
    drop(store);
    let store = open(path);
    let begin = store.checkpointed();
    assert_eq!(store.applied(), begin);
    for (index, command) in log.iter().filter(|(index, _)| *index > begin.index || begin.log_id.is_empty()) {
        match command {
            None => store.apply_blank(*index, log_id(*index)),
            Some((command, outcomes)) => {
                let reply = store.apply(*index, log_id(*index), command).unwrap();
                assert_eq!(&reply.outcomes, outcomes, "index {index} applied again");
            }
        }
    }
    store
}

fn check(store: &ShardStore, model: &Model) {
    assert_eq!(store.last_stamp(), model.last);
    let mut seen = HashSet::new();
    for name in (0..3).map(user) {
        let expected = model.inboxes.get(&name).map_or(&[][..], Vec::as_slice);
        let whole = store.read(&name, EntryId::ZERO, WIDE).unwrap();
        assert_eq!((&whole.entries[..], whole.more, whole.scanned_to), (expected, false, model.last));
        assert!(expected.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(expected.iter().all(|entry| seen.insert(entry.id)));
        // The same in small pages, by way of memory where it can answer.
        let limits = PageLimits { entries_max: 3, bytes_max: 15 };
        let (mut after, mut paged) = (EntryId::ZERO, Vec::new());
        loop {
            let page =
                store.read_hot(&name, after, limits).unwrap_or_else(|| store.read(&name, after, limits).unwrap());
            assert_eq!(page, store.read(&name, after, limits).unwrap());
            assert!(page.entries.len() <= 3 && (page.entries.is_empty() || page.scanned_to >= page.entries[0].id));
            paged.extend(page.entries);
            after = page.scanned_to;
            if !page.more {
                break;
            }
        }
        assert_eq!(paged, expected);
        for which in (0..2).map(device) {
            let expected = model.devices.get(&(name.clone(), which.clone())).copied().unwrap_or_default().0;
            assert_eq!(store.cursor(&name, &which).unwrap(), expected);
        }
    }
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("warm.db");
    let (mut store, mut model, mut log, mut clock_ms) =
        (open(&path), Model::new(WINDOW_MS, KEYS_MAX), Log::new(), 1_000);
    for (index, step) in steps.into_iter().enumerate() {
        let index = index as u64;
        match step {
            Step::Apply(specs) => {
                let items = items(&specs, &mut clock_ms, model.last);
                let before = model.last;
                let expected: Vec<Outcome> = items.iter().map(|item| model.apply(item)).collect();
                let command = encode_batch(&items);
                assert_eq!(decode_batch(&command).unwrap(), items);
                let reply = store.apply(index, log_id(index), &command).unwrap();
                assert_eq!((&reply.outcomes, reply.before), (&expected, before));
                let mut touched: Vec<UserId> = Vec::new();
                for (item, outcome) in items.iter().zip(&expected) {
                    if let (Item::Message(message), Outcome::Appended(_)) = (item, outcome)
                        && !touched.contains(&message.recipient)
                    {
                        touched.push(message.recipient.clone());
                    }
                }
                assert_eq!(reply.touched, touched);
                log.push((index, Some((command, expected))));
            }
            Step::Blank => {
                store.apply_blank(index, log_id(index));
                log.push((index, None));
            }
            Step::Checkpoint => {
                let report = store.checkpoint().unwrap();
                assert_eq!((&report.mark, store.hot_bytes()), (&store.applied(), 0));
                assert_eq!(store.checkpointed(), store.applied());
            }
            Step::Restart => store = restart(store, &path, &log),
        }
        check(&store, &model);
    }
    check(&restart(store, &path, &log), &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_the_models(steps in proptest::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
