//! SUBSCRIBE, ENTRY, CREDIT, LIVE and ACK.

use super::*;
use crate::routing::Work;

fn live(cursor: u64) -> ServerFrame {
    ServerFrame::Live { cursor: EntryId(cursor) }
}

#[tokio::test(start_paused = true)]
async fn entries_come_in_order_then_live_once_then_news() {
    let mut node = Node::logged_in(|_| {}).await;
    (1..=3).for_each(|id| node.router.append(id, b"x"));
    node.client.say(&subscribe(1, 100)).await;
    node.client.hears_entry(2).await;
    node.client.hears_entry(3).await;
    assert_eq!(node.client.hears().await, live(3));
    node.client.hears_nothing().await;
    node.router.append(4, b"x");
    node.client.hears_entry(4).await;
    node.client.hears_nothing().await;
    let reads = node.router.script().reads.clone();
    assert_eq!(reads[..2], [(EntryId(1), 100, true), (EntryId(3), 98, false)], "only LIVE needs a confirmed leader");
}

#[tokio::test(start_paused = true)]
async fn the_leader_is_told_of_the_device_at_first_and_twice_a_day() {
    let mut node = Node::logged_in(|options| options.idle = Duration::from_secs(100 * 3600)).await;
    node.client.say(&subscribe(0, 9)).await;
    assert_eq!(node.client.hears().await, live(0));
    tokio::time::sleep(Duration::from_secs(30 * 3600)).await;
    let told = node.router.script().told.clone();
    let times: Vec<usize> = (0..told.len()).filter(|at| told[*at].is_some()).collect();
    assert_eq!(times.len(), 3, "{times:?} of {}", told.len());
    assert_eq!((times[0], told[0].as_ref().unwrap().as_str()), (0, "default"));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_from_stored_begins_after_the_stored_cursor() {
    let mut node = Node::logged_in(|_| {}).await;
    (1..=2).for_each(|id| node.router.append(id, b"x"));
    node.router.script().cursor = EntryId(1);
    node.router.script().unreachable = true;
    node.client.say(&ClientFrame::Subscribe { from: SubscribeFrom::Stored, credit: 9 }).await;
    node.client.hears_nothing().await;
    node.router.script().unreachable = false;
    node.client.hears_entry(2).await;
    assert_eq!(node.client.hears().await, live(2));
}

#[tokio::test(start_paused = true)]
async fn without_credit_entries_are_held_back_and_nothing_is_asked_again_and_again() {
    let mut node = Node::logged_in(|_| {}).await;
    (1..=3).for_each(|id| node.router.append(id, b"x"));
    node.client.say(&subscribe(0, 0)).await;
    node.client.hears_nothing().await;
    assert_eq!(node.router.script().reads.len(), 1, "one look for LIVE");
    node.client.say(&ClientFrame::Credit { entries: 2 }).await;
    node.client.hears_entry(1).await;
    node.client.hears_entry(2).await;
    node.client.hears_nothing().await;
    node.client.say(&ClientFrame::Credit { entries: 1 }).await;
    node.client.hears_entry(3).await;
    assert_eq!(node.client.hears().await, live(3), "LIVE needs no credit");
}

#[tokio::test(start_paused = true)]
async fn an_empty_inbox_is_live_without_credit() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say(&subscribe(0, 0)).await;
    assert_eq!(node.client.hears().await, live(0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_costs_one_page() {
    let mut node = Node::logged_in(|_| {}).await;
    (1..=2_000).for_each(|id| node.router.append(id, &[0; 1_000]));
    node.client.say(&subscribe(0, 10_000)).await;
    wait_for("a read", || (!node.router.script().reads.is_empty()).then_some(())).await;
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(node.router.script().reads, [(EntryId(0), 256, true)]);
    // It is still listened to.
    node.client.say(&message(1, 1, "alice")).await;
    node.router.taken().await;
    for id in 1..=2_000 {
        node.client.hears_entry(id).await;
    }
    assert_eq!(node.client.hears().await, live(2_000));
}

#[tokio::test(start_paused = true)]
async fn subscribing_again_and_again_does_not_pile_up_pages() {
    let mut node = Node::logged_in(|_| {}).await;
    (1..=2_000).for_each(|id| node.router.append(id, &[0; 1_000]));
    for _ in 0..50 {
        node.client.say(&subscribe(0, 10_000)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.router.script().reads.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn acks_are_merged_and_one_behind_is_answered_with_the_stored_cursor() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say_all(&[ack(1), ack(4), ack(3)]).await;
    node.router.answer(SubmitOutcome::CursorMoved { cursor: EntryId(1) }).await;
    assert_eq!(node.client.hears().await, ServerFrame::Acked { cursor: EntryId(1) });
    let second = node.router.taken().await;
    assert!(matches!(&second.work, Work::Cursor { cursor: EntryId(4), .. }), "{second:?}");
    assert!(node.router.script().submissions.is_empty());
    let outcome = SubmitOutcome::CursorMoved { cursor: EntryId(4) };
    second.replies.try_send(Reply { ticket: second.ticket, outcome }).unwrap();
    assert_eq!(node.client.hears().await, ServerFrame::Acked { cursor: EntryId(4) });
    node.client.say(&ack(2)).await;
    node.router.answer(SubmitOutcome::CursorMoved { cursor: EntryId(4) }).await;
    assert_eq!(node.client.hears().await, ServerFrame::Acked { cursor: EntryId(4) });
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_fails_is_made_again_in_a_new_epoch() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say(&ack(4)).await;
    node.router.answer(SubmitOutcome::Unavailable).await;
    let again = node.router.taken().await;
    assert_eq!(again.epoch, 1);
    let outcome = SubmitOutcome::CursorMoved { cursor: EntryId(4) };
    again.replies.try_send(Reply { ticket: again.ticket, outcome }).unwrap();
    assert_eq!(node.client.hears().await, ServerFrame::Acked { cursor: EntryId(4) });
}
