//! Sending (A3, A4, A6): every message gets one final answer, in its recipient's order, whatever the nodes do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use iris_client::{Client, ClientError, Closing, Code, EntryId, Outgoing, Receipt, SendError, Status, Token};
use iris_protocol::frame::{ClientFrame, ServerFrame};
use support::*;

fn receipt(id: u64) -> Result<Receipt, SendError> {
    Ok(Receipt { id: EntryId(id), duplicate: false, status: Status::Committed })
}

#[tokio::test]
async fn answers_may_come_in_any_order() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let mut pending = send_all(&client, "bob", &["1", "2", "3"]).await;
    let mut conn = node.login().await;
    assert_eq!(within("login", client.connected()).await.unwrap().node.0, 1);
    let (bodies, seqs) = conn.sends(3).await;
    assert_eq!(bodies, ["1", "2", "3"]);
    conn.say(&[accepted(seqs[2], 12), accepted(seqs[0], 10)]).await;
    let duplicate = ServerFrame::Accepted { seq: seqs[1], status: Status::Queued, duplicate: true, id: EntryId(7) };
    conn.say(&[duplicate]).await;
    assert_eq!(within("3", pending.remove(2)).await, receipt(12));
    let known = Receipt { id: EntryId(7), duplicate: true, status: Status::Queued };
    assert_eq!(within("2", pending.remove(1)).await, Ok(known));
    assert_eq!(within("1", pending.remove(0)).await, receipt(10));
    assert_eq!(client.stats().unanswered, 0);
}

#[tokio::test]
async fn what_a_dead_node_left_unanswered_goes_again_first_and_in_order() {
    let ca = Ca::new();
    let (first, second) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let client = start(&ca, &[&first, &second]);
    let mut pending = send_all(&client, "bob", &["1", "2", "3"]).await;
    let mut conn = first.login().await;
    let one = conn.next_send().await;
    let two = conn.next_send().await;
    conn.next_send().await;
    conn.say(&[accepted(one.seq, 10)]).await;
    assert_eq!(within("1", pending.remove(0)).await, receipt(10));
    drop(conn);
    pending.extend(send_all(&client, "bob", &["4"]).await);
    let mut conn = second.login().await;
    let again = conn.next_send().await;
    assert_eq!((again.key, &again.body[..]), (two.key, &b"2"[..]), "the same key");
    let (bodies, seqs) = conn.sends(2).await;
    assert_eq!(bodies, ["3", "4"]);
    conn.say(&[accepted(again.seq, 11), accepted(seqs[0], 12), accepted(seqs[1], 13)]).await;
    for (pending, id) in pending.into_iter().zip(11..) {
        assert_eq!(within("the rest", pending).await, receipt(id));
    }
    let stats = client.stats();
    assert_eq!((stats.reconnects(), stats.node.map(|node| node.0)), (1, Some(2)));
    // "4" is a third one if it was written before the end of the first connection was noticed.
    assert!((2..=3).contains(&stats.resends), "{}", stats.resends);
}

#[tokio::test]
async fn a_refused_recipient_waits_while_others_go_on() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let mut bob = send_all(&client, "bob", &["b1", "b2"]).await;
    let mut conn = node.login().await;
    let (_, seqs) = conn.sends(2).await;
    conn.say(&[refused(seqs[0], Code::RateLimited, 300), refused(seqs[1], Code::Behind, 0)]).await;
    // The marker: once an answer to a later frame is here, the refusals have been read.
    let refused_at = tokio::time::Instant::now();
    let carol = send_all(&client, "carol", &["c1"]).await.remove(0);
    let c1 = conn.next_send().await;
    assert_eq!(&c1.body[..], b"c1");
    conn.say(&[accepted(c1.seq, 5)]).await;
    assert_eq!(within("carol's", carol).await, receipt(5));
    bob.extend(send_all(&client, "bob", &["b3"]).await);
    let front = conn.next_send().await;
    assert_eq!(&front.body[..], b"b1");
    assert!(refused_at.elapsed() >= Duration::from_millis(290), "retry_after_ms was kept");
    conn.say(&[accepted(front.seq, 20)]).await;
    let (bodies, seqs) = conn.sends(2).await;
    assert_eq!(bodies, ["b2", "b3"]);
    conn.say(&[accepted(seqs[0], 21), accepted(seqs[1], 22)]).await;
    for (pending, id) in bob.into_iter().zip(20..) {
        assert_eq!(within("bob's", pending).await, receipt(id));
    }
    assert_eq!(client.stats().refused_for_now, 2);
}

#[tokio::test]
async fn no_more_are_in_flight_than_the_node_allows() {
    let ca = Ca::new();
    let mut node = Node::start(&ca, 1).await;
    node.window = 2;
    let client = start(&ca, &[&node]);
    let _pending = send_all(&client, "bob", &["1", "2", "3", "4"]).await;
    let mut conn = node.login().await;
    let (_, seqs) = conn.sends(2).await;
    client.ack(EntryId(1));
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(1) }, "no third SEND came before it");
    conn.say(&[accepted(seqs[1], 2)]).await;
    assert_eq!(conn.sends(1).await.0, ["3"]);
}

#[tokio::test]
async fn send_waits_for_room() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let mut config = config(ca.pem(), &[&node]);
    config.sends_max = 1;
    let client = Client::start(config).unwrap();
    let first = send_all(&client, "bob", &["1"]).await.remove(0);
    let mut second = std::pin::pin!(client.send(Outgoing::new(user("bob"), "2")));
    tokio::select! {
        biased;
        _ = &mut second => panic!("there is no room"),
        () = std::future::ready(()) => {}
    }
    let mut conn = node.login().await;
    let seq = conn.next_send().await.seq;
    conn.say(&[accepted(seq, 1)]).await;
    assert_eq!(within("1", first).await, receipt(1));
    within("room", second).await.unwrap();
    assert_eq!(conn.sends(1).await.0, ["2"]);
}

#[tokio::test]
async fn what_will_never_be_accepted_is_said_at_once() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let too_long = client.send_and_wait(Outgoing::new(user("bob"), vec![0; 65_537]));
    let refusal = within("a refusal", too_long).await.unwrap_err();
    assert!(matches!(refusal, SendError::Refused { code: Code::BodyTooLong, .. }));
    let mut pending = send_all(&client, "bob", &["1", "2"]).await;
    let mut conn = node.login().await;
    let (_, seqs) = conn.sends(2).await;
    conn.say(&[refused(seqs[0], Code::KeyConflict, 0), accepted(seqs[1], 2)]).await;
    let expected = SendError::Refused { code: Code::KeyConflict, reason: "because".into() };
    assert_eq!(within("1", pending.remove(0)).await, Err(expected));
    assert_eq!(within("2", pending.remove(0)).await, receipt(2));
}

#[tokio::test]
async fn a_node_that_goes_away_is_asked_nothing_more() {
    let ca = Ca::new();
    let (first, hinted) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let client = start(&ca, &[&first]);
    let mut pending = send_all(&client, "bob", &["1", "2"]).await;
    let mut conn = first.login().await;
    let (_, seqs) = conn.sends(2).await;
    let addresses = vec![first.address.clone(), hinted.address.clone()];
    let goaway = ServerFrame::GoAway { delay_ms: 100, reason: "upgrade".into(), addresses };
    conn.say(&[goaway, accepted(seqs[0], 1)]).await;
    assert_eq!(within("1", pending.remove(0)).await, receipt(1));
    pending.extend(send_all(&client, "bob", &["3"]).await);
    client.ack(EntryId(9));
    conn.say(&[accepted(seqs[1], 2)]).await;
    assert_eq!(within("2", pending.remove(0)).await, receipt(2), "what it owes it still answers");
    conn.hung_up().await;
    let mut conn = hinted.login().await;
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(9) });
    assert_eq!(conn.sends(1).await.0, ["3"]);
    drop(conn);
    // The hint is used up: the addresses the caller gave are the ones that last.
    let mut conn = first.login().await;
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(9) });
    assert_eq!(conn.sends(1).await.0, ["3"]);
}

#[tokio::test]
async fn a_broken_server_is_left_and_an_unknown_frame_is_not() {
    let ca = Ca::new();
    let (first, second) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let client = start(&ca, &[&first, &second]);
    let pending = send_all(&client, "bob", &["1"]).await.remove(0);
    let mut conn = first.login().await;
    conn.sends(1).await;
    conn.say_bytes(&[0, 0, 0, 2, 0x60, 1]).await;
    client.ack(EntryId(1));
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(1) }, "0x60 is ignored");
    conn.say_bytes(&[0, 0, 0, 2, 0x80, 1]).await;
    conn.hung_up().await;
    let mut conn = second.login().await;
    assert!(matches!(conn.frame().await, ClientFrame::Ack { .. }));
    let seq = conn.next_send().await.seq;
    conn.say(&[accepted(seq + 1, 1)]).await;
    conn.hung_up().await;
    let mut conn = first.login().await;
    assert!(matches!(conn.frame().await, ClientFrame::Ack { .. }));
    let seq = conn.next_send().await.seq;
    conn.say(&[accepted(seq, 1)]).await;
    assert_eq!(within("1", pending).await, receipt(1));
}

#[tokio::test]
async fn a_node_that_falls_silent_is_left() {
    let ca = Ca::new();
    let (first, second) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let mut config = config(ca.pem(), &[&first, &second]);
    config.deadlines.ping_while_waiting = Duration::from_millis(20);
    config.deadlines.pong = Duration::from_millis(50);
    let client = Client::start(config).unwrap();
    let pending = send_all(&client, "bob", &["1"]).await.remove(0);
    // It takes the SEND and the PING and says nothing; its socket stays open.
    let silent = first.login().await;
    let mut conn = second.login().await;
    let seq = conn.next_send().await.seq;
    conn.say(&[accepted(seq, 1)]).await;
    assert_eq!(within("1", pending).await, receipt(1));
    drop(silent);
}

#[tokio::test]
async fn a_refused_token_is_final_unless_a_fresh_one_can_be_had() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let refusal = ServerFrame::Error { code: Code::AuthFailed, retry_after_ms: 0, reason: "no".into() };
    let client = start(&ca, &[&node]);
    let pending = send_all(&client, "bob", &["1"]).await.remove(0);
    let mut conn = node.accept().await.unwrap();
    conn.frame().await;
    conn.say(std::slice::from_ref(&refusal)).await;
    assert_eq!(within("the end", client.connected()).await, Err(ClientError::AuthFailed));
    assert_eq!(within("1", pending).await, Err(SendError::Failed(ClientError::AuthFailed)));
    let late = client.send(Outgoing::new(user("bob"), "2")).await;
    assert_eq!(late.unwrap_err(), ClientError::AuthFailed);

    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let mut config = config(ca.pem(), &[&node]);
    config.token = Token::provider(move || {
        let count = counter.fetch_add(1, Ordering::Relaxed);
        async move { Ok(if count == 0 { "expired".to_owned() } else { TOKEN.to_owned() }) }
    });
    let client = Client::start(config).unwrap();
    let mut conn = node.accept().await.unwrap();
    conn.frame().await;
    conn.say(&[refusal]).await;
    let _conn = node.login().await;
    within("login", client.connected()).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn close_waits_for_what_is_outstanding_and_says_bye() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let other = client.clone();
    let pending = send_all(&client, "bob", &["1"]).await.remove(0);
    client.ack(EntryId(4));
    let closing = tokio::spawn(client.close(Duration::from_secs(15)));
    let mut conn = node.login().await;
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(4) });
    let seq = conn.next_send().await.seq;
    conn.say(&[accepted(seq, 1), ServerFrame::Acked { cursor: EntryId(4) }]).await;
    assert_eq!(conn.frame().await, ClientFrame::Bye);
    drop(conn);
    assert_eq!(within("close", closing).await.unwrap(), Closing::Clean);
    assert_eq!(within("1", pending).await, receipt(1));
    assert_eq!(other.send(Outgoing::new(user("bob"), "2")).await.unwrap_err(), ClientError::Closed);
}

#[tokio::test]
async fn close_has_a_deadline_and_dropping_is_at_once() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let pending = send_all(&client, "bob", &["1"]).await.remove(0);
    let closing = within("close", client.close(Duration::from_millis(10))).await;
    assert_eq!(closing, Closing::Cut { unanswered: 1 });
    assert_eq!(within("1", pending).await, Err(SendError::Closed));

    let node = Node::start(&ca, 2).await;
    let client = start(&ca, &[&node]);
    let pending = send_all(&client, "bob", &["1"]).await.remove(0);
    let mut conn = node.login().await;
    conn.sends(1).await;
    drop(client);
    assert_eq!(within("1", pending).await, Err(SendError::Closed));
    conn.hung_up().await;
}

#[tokio::test]
async fn a_message_can_have_a_deadline() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let mut config = config(ca.pem(), &[&node]);
    config.deadlines.send = Some(Duration::from_millis(200));
    let client = Client::start(config).unwrap();
    let pending = send_all(&client, "bob", &["1"]).await.remove(0);
    let mut conn = node.login().await;
    let seq = conn.next_send().await.seq;
    conn.say(&[refused(seq, Code::Overloaded, 60_000)]).await;
    assert_eq!(within("the deadline", pending).await, Err(SendError::Deadline));
    // The node waits for the first key before it takes anything to bob: only a new connection helps.
    conn.hung_up().await;
    let mut conn = node.login().await;
    let _pending = send_all(&client, "bob", &["2"]).await;
    assert_eq!(conn.sends(1).await.0, ["2"]);
}
