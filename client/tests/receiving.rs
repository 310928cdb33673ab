//! Receiving (A7, A8): the inbox in order, once, across reconnects; credit; acks until they are durable.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::time::Duration;

use iris_client::{ClientError, EntryId, Event, SubscribeFrom, Subscription};
use iris_protocol::frame::{ClientFrame, ServerFrame};
use support::*;

async fn ids(inbox: &mut Subscription, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    for _ in 0..count {
        match within("an entry", inbox.next()).await.unwrap() {
            Event::Entry(entry) => ids.push(entry.id.0),
            Event::Live(cursor) => panic!("an entry was due, not live at {cursor}"),
        }
    }
    ids
}

fn entries(ids: &[u64]) -> Vec<ServerFrame> {
    ids.iter().map(|&id| ServerFrame::Entry(entry(id))).collect()
}

#[tokio::test]
async fn entries_come_and_credit_goes_back_as_they_are_taken() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let mut inbox = client.subscribe(SubscribeFrom::Stored, 4).unwrap();
    let mut conn = node.login().await;
    assert_eq!(conn.frame().await, ClientFrame::Subscribe { from: SubscribeFrom::Stored, credit: 4 });
    conn.say(&entries(&[1, 2, 3, 4])).await;
    conn.say(&[ServerFrame::Live { cursor: EntryId(4) }]).await;
    assert_eq!(ids(&mut inbox, 2).await, [1, 2]);
    assert_eq!(conn.frame().await, ClientFrame::Credit { entries: 2 });
    assert_eq!(ids(&mut inbox, 2).await, [3, 4]);
    assert_eq!(within("live", inbox.next()).await, Ok(Event::Live(EntryId(4))));
    assert_eq!(conn.frame().await, ClientFrame::Credit { entries: 2 });
}

#[tokio::test]
async fn a_reconnect_goes_on_after_the_last_entry_and_hides_what_comes_twice() {
    let ca = Ca::new();
    let (first, second) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let client = start(&ca, &[&first, &second]);
    let mut inbox = client.subscribe(SubscribeFrom::After(EntryId::ZERO), 10).unwrap();
    let mut conn = first.login().await;
    conn.frame().await;
    conn.say(&entries(&[1, 2, 3])).await;
    assert_eq!(ids(&mut inbox, 3).await, [1, 2, 3]);
    drop(conn);
    let mut conn = second.login().await;
    let again = ClientFrame::Subscribe { from: SubscribeFrom::After(EntryId(3)), credit: 10 };
    assert_eq!(conn.frame().await, again);
    conn.say(&entries(&[2, 3, 4])).await;
    assert_eq!(ids(&mut inbox, 1).await, [4]);
    assert_eq!(client.stats().duplicates_hidden, 2);
}

#[tokio::test]
async fn a_node_that_sends_more_than_the_credit_is_left() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let mut inbox = client.subscribe(SubscribeFrom::Stored, 2).unwrap();
    let mut conn = node.login().await;
    conn.frame().await;
    conn.say(&entries(&[1, 2, 3])).await;
    conn.hung_up().await;
    let mut conn = node.login().await;
    let again = ClientFrame::Subscribe { from: SubscribeFrom::After(EntryId(2)), credit: 0 };
    assert_eq!(conn.frame().await, again, "two are still in the buffer");
    assert_eq!(ids(&mut inbox, 2).await, [1, 2]);
}

#[tokio::test]
async fn an_ack_is_said_until_it_is_durable() {
    let ca = Ca::new();
    let (first, second) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let client = start(&ca, &[&first, &second]);
    client.ack(EntryId(5));
    let mut conn = first.login().await;
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(5) });
    drop(conn);
    let mut conn = second.login().await;
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(5) });
    assert_eq!(client.flush_acks(Duration::from_millis(1)).await, Err(ClientError::Deadline));
    client.ack(EntryId(3));
    conn.say(&[ServerFrame::Acked { cursor: EntryId(5) }]).await;
    assert_eq!(client.flush_acks(Duration::from_secs(15)).await, Ok(()));
    drop(conn);
    let mut conn = first.login().await;
    client.ack(EntryId(6));
    assert_eq!(conn.frame().await, ClientFrame::Ack { cursor: EntryId(6) }, "5 is not said again");
}

#[tokio::test]
async fn a_second_subscription_takes_the_firsts_place_on_a_connection_of_its_own() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    let mut first = client.subscribe(SubscribeFrom::After(EntryId(100)), 10).unwrap();
    let mut conn = node.login().await;
    conn.frame().await;
    conn.say(&entries(&[101])).await;
    assert_eq!(ids(&mut first, 1).await, [101]);
    let mut second = client.subscribe(SubscribeFrom::After(EntryId::ZERO), 10).unwrap();
    assert_eq!(within("the end", first.next()).await, Err(ClientError::Replaced));
    drop(first);
    // On this connection an entry of the first could be taken for one of the second and hide what comes before it.
    conn.say(&entries(&[102])).await;
    conn.hung_up().await;
    let mut conn = node.login().await;
    let fresh = ClientFrame::Subscribe { from: SubscribeFrom::After(EntryId::ZERO), credit: 10 };
    assert_eq!(conn.frame().await, fresh);
    conn.say(&entries(&[1, 2])).await;
    assert_eq!(ids(&mut second, 2).await, [1, 2]);
}

#[tokio::test]
async fn a_subscription_outlives_its_clients_handle_and_ends_with_close() {
    let ca = Ca::new();
    let node = Node::start(&ca, 1).await;
    let client = start(&ca, &[&node]);
    assert!(client.subscribe(SubscribeFrom::Stored, 0).is_err());
    let closer = client.clone();
    let mut inbox = client.subscribe(SubscribeFrom::Stored, 2).unwrap();
    drop(client);
    let mut conn = node.login().await;
    conn.frame().await;
    conn.say(&entries(&[1])).await;
    assert_eq!(ids(&mut inbox, 1).await, [1]);
    let closing = tokio::spawn(closer.close(Duration::from_secs(15)));
    while !matches!(conn.frame().await, ClientFrame::Bye) {}
    drop(conn);
    within("close", closing).await.unwrap();
    assert_eq!(within("the end", inbox.next()).await, Err(ClientError::Closed));
}
