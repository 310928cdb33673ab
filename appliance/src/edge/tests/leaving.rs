//! How connections end: BYE, GOAWAY, silence, a client that takes nothing.

use super::*;

#[tokio::test(start_paused = true)]
async fn bye_is_followed_by_what_is_owed_and_the_end() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say_all(&[message(1, 1, "alice"), ack(3), ClientFrame::Bye]).await;
    node.client.hears_nothing().await;
    node.router.answer(committed(1)).await;
    node.router.answer(SubmitOutcome::CursorMoved { cursor: EntryId(3) }).await;
    node.client.hears_accepted(1).await;
    assert_eq!(node.client.hears().await, ServerFrame::Acked { cursor: EntryId(3) });
    node.ends().await;
    assert_eq!(node.shared.counters.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_departing_node_answers_what_it_owes_and_takes_nothing_new() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say_all(&[subscribe(0, 100), message(1, 1, "alice")]).await;
    assert!(matches!(node.client.hears().await, ServerFrame::Live { .. }));
    let owed = node.router.taken().await;
    node.shared.draining.cancel();
    let frame = node.client.hears().await;
    assert!(matches!(&frame, ServerFrame::GoAway { addresses, .. } if addresses[..] == ["10.0.0.2:8443"]), "{frame:?}");
    node.client.say_all(&[message(2, 2, "carol"), ClientFrame::Ping { nonce: 1 }]).await;
    node.client.hears_refusal(2, Code::Unavailable).await;
    assert_eq!(node.client.hears().await, ServerFrame::Pong { nonce: 1 });
    node.router.append(1, b"x");
    node.client.hears_nothing().await;
    owed.replies.try_send(Reply { ticket: owed.ticket, outcome: committed(1) }).unwrap();
    node.client.hears_accepted(1).await;
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_departing_node_does_not_wait_for_sessions_that_are_owed_nothing() {
    let mut node = Node::logged_in(|_| {}).await;
    (1..=2_000).for_each(|id| node.router.append(id, &[0; 1_000]));
    node.client.say(&subscribe(0, 2_000)).await;
    node.client.hears_entry(1).await;
    let begun = Instant::now();
    node.shared.draining.cancel();
    tokio::time::sleep(Duration::from_millis(1)).await;
    for id in 2..=256 {
        node.client.hears_entry(id).await;
    }
    assert!(matches!(node.client.hears().await, ServerFrame::GoAway { .. }), "the page under way, and no other");
    node.ends().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_departure_ends_even_if_something_is_never_answered() {
    let mut node = Node::logged_in(|options| options.drain = Duration::from_secs(3)).await;
    node.client.say(&message(1, 1, "alice")).await;
    let _owed = node.router.taken().await;
    node.shared.draining.cancel();
    assert!(matches!(node.client.hears().await, ServerFrame::GoAway { .. }));
    node.client.hears_error(Code::ShuttingDown).await;
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_before_login_is_turned_away() {
    let mut node = Node::connected(4_096, |_| {});
    node.shared.draining.cancel();
    node.client.hears_error(Code::ShuttingDown).await;
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection_and_any_frame_keeps_it() {
    let idle = Duration::from_secs(60);
    let mut node = Node::logged_in(|options| options.idle = idle).await;
    for nonce in 0..3 {
        tokio::time::sleep(idle * 3 / 4).await;
        node.client.say(&ClientFrame::Ping { nonce }).await;
        assert_eq!(node.client.hears().await, ServerFrame::Pong { nonce });
    }
    tokio::time::sleep(idle - Duration::from_secs(1)).await;
    node.client.hears_error(Code::Timeout).await;
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_bytes_is_cut_off_but_not_for_having_been_quiet_before() {
    let mut node = Node::connected(1_024, |_| {});
    node.client.say(&hello("bob")).await;
    assert!(matches!(node.client.hears().await, ServerFrame::Welcome { .. }));
    tokio::time::sleep(Duration::from_secs(100)).await;
    (1..=100).for_each(|id| node.router.append(id, &[0; 100]));
    node.client.say(&subscribe(0, 100)).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    node.client.hears_entry(1).await;
    assert!(!node.session.is_finished());
    tokio::time::sleep(Duration::from_secs(31)).await;
    wait_for("the session's end", || node.session.is_finished().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn many_answers_nobody_reads_stop_the_reading() {
    let mut node = Node::logged_in(|_| {}).await;
    let pings: Vec<_> = (0..10_000).map(|nonce| ClientFrame::Ping { nonce }).collect();
    let mut taken = 0;
    while timeout(PATIENCE, node.client.say_all_or_stop(&pings)).await.is_ok() {
        taken += 1;
        assert!(taken < 100, "the server reads without end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_frame_ends_its_connection_after_the_answers_before_it() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say(&ClientFrame::Ping { nonce: 3 }).await;
    node.client.say_bytes(&[0, 0, 0, 1, 0x33]).await;
    assert_eq!(node.client.hears().await, ServerFrame::Pong { nonce: 3 });
    node.client.hears_error(Code::Malformed).await;
    node.ends().await;
}
