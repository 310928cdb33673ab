//! Proof that the oracle sees what it is there to see: each kind of damage to a log is caught and counted as what it is.

use super::*;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn key(number: u8) -> MessageKey {
    MessageKey([number; 16])
}

/// Six messages from bob and carol to alice, numbers 0 to 2 each, all acked; and the log that holds them.
fn good() -> (Vec<Record>, Logs) {
    let mut records = Vec::new();
    let mut log = Vec::new();
    for at in 0u8..6 {
        let sender = user(if at % 2 == 0 { "bob" } else { "carol" });
        let (id, hash) = (EntryId(u64::from(at) + 10), hash(&[at]));
        let intent = Intent {
            key: key(at),
            sender: sender.clone(),
            lane: 0,
            recipient: user("alice"),
            number: u64::from(at / 2),
            hash,
        };
        records.push(Record { intent, fate: Fate::Acked(id) });
        log.push(Seen { id, key: key(at), sender, hash });
    }
    (records, Logs::from([(user("alice"), log)]))
}

/// What the verdict is after the records and alice's log were changed.
fn after(change: impl FnOnce(&mut Vec<Record>, &mut Vec<Seen>)) -> Verdict {
    let (mut records, mut logs) = good();
    change(&mut records, logs.get_mut("alice").unwrap());
    judge(&records, &logs)
}

/// Gives the log's ids anew, as a log that came to be in this order would have them.
fn renumber(records: &mut [Record], log: &mut [Seen]) {
    for (at, seen) in log.iter_mut().enumerate() {
        seen.id = EntryId(at as u64 + 10);
        if let Some(record) = records.iter_mut().find(|record| record.intent.key == seen.key) {
            record.fate = Fate::Acked(seen.id);
        }
    }
}

#[test]
fn a_good_log_is_clean() {
    let verdict = after(|_, _| {});
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!((verdict.intended, verdict.acked, verdict.delivered), (6, 6, 6));
    verdict.assert_clean();
}

#[test]
fn an_acked_entry_that_is_gone_is_lost() {
    let verdict = after(|_, log| drop(log.remove(3)));
    assert_eq!((verdict.lost, verdict.delivered, verdict.faults()), (1, 5, 1), "{verdict}");
    assert!(verdict.to_string().contains("LOST"));
}

#[test]
fn a_log_nobody_could_read_is_all_lost() {
    let (records, _) = good();
    assert_eq!(judge(&records, &Logs::new()).lost, 6);
}

#[test]
fn a_key_twice_is_duplicated_in_one_log_or_in_two() {
    let verdict = after(|_, log| {
        let again = Seen { id: EntryId(99), ..log[1].clone() };
        log.push(again);
    });
    assert_eq!((verdict.duplicated, verdict.faults()), (1, 1), "{verdict}");
    let (records, mut logs) = good();
    let again = logs["alice"][1].clone();
    logs.insert(user("bob"), vec![again]);
    assert_eq!(judge(&records, &logs).duplicated, 1);
}

#[test]
fn the_same_key_of_two_senders_is_two_messages() {
    let verdict = after(|records, log| {
        records[1].intent.key = key(0);
        log[1].key = key(0);
    });
    assert!(verdict.is_clean(), "{verdict}");
}

#[test]
fn two_of_one_sender_swapped_are_reordered_two_senders_are_not() {
    let swapped = after(|records, log| {
        log.swap(0, 2);
        renumber(records, log);
    });
    assert_eq!((swapped.reordered, swapped.faults()), (1, 1), "{swapped}");
    let two_senders = after(|records, log| {
        log.swap(0, 1);
        renumber(records, log);
    });
    assert!(two_senders.is_clean(), "{two_senders}");
    let two_lanes = after(|records, log| {
        records[2].intent.lane = 1;
        log.swap(0, 2);
        renumber(records, log);
    });
    assert!(two_lanes.is_clean(), "{two_lanes}");
}

#[test]
fn an_unacked_one_out_of_order_is_reordered_too() {
    let verdict = after(|records, log| {
        log.swap(0, 2);
        renumber(records, log);
        records[0].fate = Fate::Unknown;
    });
    assert_eq!((verdict.reordered, verdict.unknown_present), (1, 1), "{verdict}");
}

#[test]
fn another_body_is_corrupted_and_the_message_lost() {
    let verdict = after(|_, log| log[2].hash = hash(b"something else"));
    assert_eq!((verdict.corrupted, verdict.lost, verdict.delivered), (1, 1, 5), "{verdict}");
}

#[test]
fn another_id_than_acked_is_misnumbered() {
    let verdict = after(|records, _| records[5].fate = Fate::Acked(EntryId(77)));
    assert_eq!((verdict.misnumbered, verdict.faults()), (1, 1), "{verdict}");
}

#[test]
fn ids_that_do_not_increase_are_seen() {
    let verdict = after(|records, log| {
        log[3].id = log[2].id;
        records[3].fate = Fate::Acked(log[2].id);
    });
    assert_eq!((verdict.not_increasing, verdict.faults()), (1, 1), "{verdict}");
}

#[test]
fn what_nobody_sent_or_not_here_is_foreign() {
    let verdict = after(|_, log| {
        let id = EntryId(99);
        log.push(Seen { id, key: key(200), sender: user("bob"), hash: hash(b"") });
    });
    assert_eq!((verdict.foreign, verdict.faults()), (1, 1), "{verdict}");
    let (records, mut logs) = good();
    let strayed = logs.get_mut("alice").unwrap().pop().unwrap();
    logs.insert(user("dave"), vec![strayed]);
    let verdict = judge(&records, &logs);
    assert_eq!((verdict.foreign, verdict.lost), (1, 1), "{verdict}");
}

#[test]
fn an_unanswered_one_may_be_there_or_not_a_refused_one_may_not() {
    let absent = after(|records, log| {
        records[5].fate = Fate::Unknown;
        log.pop();
    });
    assert!(absent.is_clean(), "{absent}");
    assert_eq!((absent.unknown_absent, absent.acked), (1, 5));
    let present = after(|records, _| records[5].fate = Fate::Unknown);
    assert!(present.is_clean(), "{present}");
    assert_eq!(present.unknown_present, 1);
    let refused = after(|records, _| records[5].fate = Fate::Refused);
    assert_eq!((refused.refused_present, refused.faults()), (1, 1), "{refused}");
}

#[test]
fn the_worst_of_two_readings_hides_nothing() {
    let lost = after(|_, log| drop(log.pop()));
    let corrupted = after(|_, log| log[0].hash = hash(b"x"));
    let worst = lost.worst(corrupted);
    assert_eq!((worst.lost, worst.corrupted, worst.delivered), (1, 1, 5), "{worst}");
}

#[test]
fn the_recorder_counts_acks_once_and_notes_contradictions() {
    let oracle = Oracle::new();
    let (bob, alice) = (user("bob"), user("alice"));
    let message = oracle.intend(&bob, 0, &alice, "hi".into());
    let receipt = Receipt { id: EntryId(5), duplicate: false, status: iris_client::Status::Committed };
    oracle.settle(&bob, message.key, &Ok(receipt));
    oracle.settle(&bob, message.key, &Ok(Receipt { duplicate: true, ..receipt }));
    assert_eq!((oracle.acked(), oracle.duplicates_answered()), (1, 1));
    assert!(oracle.contradictions().is_empty());
    oracle.settle(&bob, message.key, &Ok(Receipt { id: EntryId(6), ..receipt }));
    assert_eq!(oracle.contradictions().len(), 1);
    let logs = Logs::from([(alice, vec![Seen { id: EntryId(6), key: message.key, sender: bob, hash: hash(b"hi") }])]);
    assert_eq!(oracle.judge(&logs).contradicted, 1);
}
