//! SEND and its answers: order, refusals, limits.

use iris_protocol::limits::{BODY_LEN_MAX, SENDS_IN_FLIGHT_MAX};

use super::*;
use crate::routing::Work;

fn changed(frame: ClientFrame, change: impl FnOnce(&mut Send)) -> ClientFrame {
    let ClientFrame::Send(mut send) = frame else { panic!("a SEND") };
    change(&mut send);
    ClientFrame::Send(send)
}

#[tokio::test(start_paused = true)]
async fn pipelined_sends_are_submitted_in_order_and_answered_by_seq() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say_all(&[message(1, 1, "alice"), message(5, 2, "carol"), message(6, 3, "alice")]).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(node.router.taken().await);
    }
    let keys: Vec<u8> = taken
        .iter()
        .map(|submission| match &submission.work {
            Work::Message { sender, key, .. } if sender.as_str() == "bob" => key.0[0],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(keys, [1, 2, 3]);
    let outcomes = [
        SubmitOutcome::KeyConflict,
        SubmitOutcome::Committed { id: EntryId(9), duplicate: true },
        SubmitOutcome::Unavailable,
    ];
    for (submission, outcome) in taken.iter().rev().zip(outcomes) {
        submission.replies.try_send(Reply { ticket: submission.ticket, outcome }).unwrap();
    }
    node.client.hears_refusal(6, Code::KeyConflict).await;
    assert!(matches!(node.client.hears().await, ServerFrame::Accepted { seq: 5, duplicate: true, id: EntryId(9), .. }));
    node.client.hears_refusal(1, Code::Unavailable).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_rest_is_behind_until_it_is_sent_again() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say_all(&[message(1, 1, "alice"), message(2, 2, "alice")]).await;
    node.router.answer(SubmitOutcome::Unavailable).await;
    node.client.hears_refusal(1, Code::Unavailable).await;
    node.client.say(&message(3, 3, "alice")).await;
    assert_eq!(node.client.hears_refusal(3, Code::Behind).await, 0);
    node.client.say_all(&[message(4, 1, "alice"), message(5, 3, "alice"), message(6, 9, "carol")]).await;
    node.client.hears_refusal(5, Code::Behind).await;
    node.router.answer(SubmitOutcome::Behind).await;
    node.client.hears_refusal(2, Code::Behind).await;
    let resent = node.router.taken().await;
    assert!(matches!(&resent.work, Work::Message { key: MessageKey([1, ..]), .. }), "{resent:?}");
    assert_eq!(resent.epoch, 1, "the router must see that this was sent knowing of the refusal");
    assert!(matches!(&node.router.taken().await.work, Work::Message { key: MessageKey([9, ..]), .. }));
    node.client.say_all(&[message(7, 2, "alice"), message(8, 3, "alice")]).await;
    node.router.answer(committed(2)).await;
    node.router.answer(committed(3)).await;
    node.client.hears_accepted(7).await;
    node.client.hears_accepted(8).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_shard_is_overloaded() {
    let mut node = Node::logged_in(|_| {}).await;
    node.router.script().full = true;
    node.client.say_all(&[message(1, 1, "alice"), message(2, 2, "alice")]).await;
    assert!(node.client.hears_refusal(1, Code::Overloaded).await > 0);
    node.client.hears_refusal(2, Code::Behind).await;
    node.router.script().full = false;
    node.client.say(&message(3, 1, "alice")).await;
    assert_eq!(node.router.taken().await.epoch, 0);
}

#[tokio::test(start_paused = true)]
async fn too_fast_is_refused_with_the_time_to_wait() {
    let limits = |options: &mut EdgeOptions| (options.messages_per_s, options.messages_burst) = (10, 1);
    let mut node = Node::logged_in(limits).await;
    node.client.say_all(&[message(1, 1, "alice"), message(2, 2, "alice")]).await;
    let wait = node.client.hears_refusal(2, Code::RateLimited).await;
    assert!((1..=100).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_millis(wait.into())).await;
    node.client.say(&message(3, 2, "alice")).await;
    node.router.answer(committed(1)).await;
    node.router.answer(committed(2)).await;
    node.client.hears_accepted(1).await;
    node.client.hears_accepted(3).await;
}

#[tokio::test(start_paused = true)]
async fn final_refusals_block_nothing() {
    let mut node = Node::logged_in(|_| {}).await;
    let large = changed(message(1, 1, "alice"), |send| send.body = vec![0; BODY_LEN_MAX + 1].into());
    let other = changed(message(2, 2, "alice"), |send| send.durability = Durability::BestEffort);
    node.client.say_all(&[large, other, message(3, 3, "alice")]).await;
    node.client.hears_refusal(1, Code::BodyTooLong).await;
    node.client.hears_refusal(2, Code::Unsupported).await;
    node.router.answer(committed(1)).await;
    node.client.hears_accepted(3).await;
}

#[tokio::test(start_paused = true)]
async fn a_seq_that_does_not_grow_is_malformed() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say_all(&[message(2, 1, "alice"), message(2, 2, "alice")]).await;
    node.client.hears_error(Code::Malformed).await;
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn one_more_than_may_be_in_flight_ends_the_connection() {
    let mut node = Node::logged_in(|_| {}).await;
    let sends: Vec<_> = (1..=SENDS_IN_FLIGHT_MAX as u64).map(|seq| message(seq, 1, "alice")).collect();
    node.client.say_all(&sends).await;
    node.client.hears_nothing().await;
    node.client.say(&message(5_000, 1, "alice")).await;
    node.client.hears_error(Code::TooManyInFlight).await;
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_never_comes_is_unavailable_within_20_seconds() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say(&message(1, 1, "alice")).await;
    let lost = node.router.taken().await;
    tokio::time::sleep(Duration::from_millis(19_900)).await;
    node.client.hears_refusal(1, Code::Unavailable).await;
    lost.replies.try_send(Reply { ticket: lost.ticket, outcome: committed(1) }).unwrap();
    node.client.hears_nothing().await;
}
