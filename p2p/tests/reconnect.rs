//! Losing a peer and finding it again: crossing dials, kills, restarts and silence.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use iris_p2p::{DownCause, LinkConfig, Member, PeerState};
use support::relay::Relay;
use support::{ECHO, Node, SOON, Transport, config, ending, eventually, identities, pair, say, within};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn crossing_dials_settle_on_one_connection() {
    for (transport, round) in Transport::BOTH.into_iter().flat_map(|transport| (0..10).map(move |n| (transport, n))) {
        let (low, high) = identities();
        // Each listens behind a relay that first collects both dials and then lets them through together.
        let (low_gate, high_gate) = (Relay::listen(transport).await, Relay::listen(transport).await);
        let low_member = Member { key: low.peer_id(), addrs: vec![low_gate.addr()] };
        let high_member = Member { key: high.peer_id(), addrs: vec![high_gate.addr()] };
        let start = |identity, member| Node::start(identity, config(transport.any_port()), vec![member]);
        let (mut low, mut high) = tokio::join!(start(low, high_member), start(high, low_member));
        low.echo();
        high.echo();
        for gate in [&low_gate, &high_gate] {
            within("a dial", gate.count().wait_for(|count| count.accepted == 1)).await.unwrap();
        }
        low_gate.forward_to(&low);
        high_gate.forward_to(&high);
        let (mut one, mut other) = (low_gate.count(), high_gate.count());
        let closed = async {
            loop {
                let (one_count, other_count) = (*one.borrow_and_update(), *other.borrow_and_update());
                if (one_count.accepted, other_count.accepted) == (1, 1) && one_count.closed + other_count.closed == 1 {
                    break;
                }
                assert!(one_count.closed + other_count.closed <= 1, "both were closed");
                tokio::select! { _ = one.changed() => {}, _ = other.changed() => {} }
            }
        };
        match transport {
            Transport::Tcp => within("one of two is closed", closed).await,
            // Nobody can see from outside that a QUIC connection was closed.
            Transport::Quic => drop(closed),
        }
        within("both up", async { tokio::join!(low.up(high.key()), high.up(low.key())) }).await;
        let states = (low.links.watch().borrow().clone(), high.links.watch().borrow().clone());
        say(&mut low.links.open(high.key(), ECHO).await.unwrap(), &format!("round {round}")).await;
        say(&mut high.links.open(low.key(), ECHO).await.unwrap(), &format!("round {round}")).await;
        one_connection(&low, &high).await;
        assert_eq!(states, (low.links.watch().borrow().clone(), high.links.watch().borrow().clone()));
    }
}

/// Both sides count one connection, and it carries streams both ways.
async fn one_connection(low: &Node, high: &Node) {
    let counts = || (low.links.connection_count(high.key()), high.links.connection_count(low.key()));
    eventually("one connection", || counts() == (1, 1)).await;
    for (from, to) in [(low, high), (high, low)] {
        say(&mut from.links.open(to.key(), ECHO).await.unwrap(), "the one").await;
    }
    assert_eq!(counts(), (1, 1));
}

#[tokio::test]
async fn crossing_dials_on_two_transports_settle_on_one_connection() {
    for _ in 0..10 {
        let listen = vec![Transport::Tcp.any_port(), Transport::Quic.any_port()];
        let both = LinkConfig { listen, ..LinkConfig::default() };
        let (low, high) = identities();
        // Four dials, collected before any of them gets through.
        let mut gates = Vec::new();
        for transport in [Transport::Tcp, Transport::Quic, Transport::Tcp, Transport::Quic] {
            gates.push(Relay::listen(transport).await);
        }
        let addrs = |gates: &[Relay]| gates.iter().map(Relay::addr).collect();
        let low_member = Member { key: low.peer_id(), addrs: addrs(&gates[..2]) };
        let high_member = Member { key: high.peer_id(), addrs: addrs(&gates[2..]) };
        let mut low = Node::start(low, both.clone(), vec![high_member]).await;
        let mut high = Node::start(high, both, vec![low_member]).await;
        low.echo();
        high.echo();
        for gate in &gates {
            within("a dial", gate.count().wait_for(|count| count.accepted == 1)).await.unwrap();
        }
        let behind = [low.links.listen_addrs(), high.links.listen_addrs()].concat();
        assert_eq!(behind.len(), gates.len());
        gates.iter().zip(&behind).for_each(|(gate, addr)| gate.forward_to_addr(addr));
        within("both up", async { tokio::join!(low.up(high.key()), high.up(low.key())) }).await;
        one_connection(&low, &high).await;
        let states = (low.links.watch().borrow().clone(), high.links.watch().borrow().clone());
        one_connection(&low, &high).await;
        assert_eq!(states, (low.links.watch().borrow().clone(), high.links.watch().borrow().clone()));
    }
}

#[tokio::test]
async fn a_peer_with_two_transports_gets_one_link_that_lasts() {
    for round in 0..5 {
        let both = || LinkConfig {
            listen: vec![Transport::Tcp.any_port(), Transport::Quic.any_port()],
            ..config(Transport::Tcp.any_port())
        };
        let (low, high) = identities();
        let mut low = Node::start(low, both(), vec![]).await;
        let high = Node::start(high, both(), vec![low.as_member()]).await;
        assert_eq!(high.links.listen_addrs().len(), 2);
        low.links.set_members(vec![high.as_member()]);
        within("both up", async { tokio::join!(low.up(high.key()), high.up(low.key())) }).await;
        low.echo();
        let mut stream = high.links.open(low.key(), ECHO).await.unwrap();
        for word in 0..20 {
            say(&mut stream, &format!("round {round}, word {word}")).await;
        }
    }
}

#[tokio::test]
async fn a_killed_peer_is_noticed_and_found_again_after_its_restart() {
    for transport in [Transport::Tcp, Transport::Quic] {
        for kill_lower in [true, false] {
            let (low, high) = pair(transport).await;
            let (mut dies, mut stays) = if kill_lower { (low, high) } else { (high, low) };
            // Streams that outlive their node in the hands of their owners must not keep its connection alive.
            let our_end = ending(stays.links.open(dies.key(), ECHO).await.unwrap());
            let their_end = ending(dies.inbound.as_mut().unwrap().accept().await.unwrap().2);
            stays.echo();
            let (identity, addr, key) = (dies.identity.clone(), dies.addr(), dies.key());
            let killed = Instant::now();
            let its_links = dies.links.clone();
            dies.kill().await;
            assert!(!its_links.is_up(stays.key()), "a handle of ended links knows that they ended");
            assert!(its_links.open(stays.key(), ECHO).await.is_err());
            stays.down(key).await;
            assert!(killed.elapsed() < Duration::from_secs(4), "{:?}", killed.elapsed());
            assert!(stays.links.open(key, ECHO).await.is_err());
            our_end.await.unwrap();
            their_end.await.unwrap();

            // The old sockets are closed by tasks that end on their own; the port is free a moment later.
            let again = within("the same port", async {
                loop {
                    let start = iris_p2p::Links::start(identity.clone(), config(addr.clone()), vec![stays.as_member()]);
                    match start.await {
                        Ok(started) => break started,
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            })
            .await;
            let (links, inbound, task) = again;
            let restarted = Instant::now();
            let task = tokio::spawn(async move { task.run().await.unwrap() });
            let again = Node { links, inbound: Some(inbound), task, identity };
            within("up again", async { tokio::join!(again.up(stays.key()), stays.up(key)) }).await;
            assert!(restarted.elapsed() < Duration::from_secs(3), "{:?}", restarted.elapsed());
            say(&mut again.links.open(stays.key(), ECHO).await.unwrap(), "back").await;
        }
    }
}

#[tokio::test]
async fn a_silent_peer_is_closed_in_time_and_redialled() {
    for (transport, low_is_called) in Transport::BOTH.into_iter().flat_map(|on| [(on, true), (on, false)]) {
        let (low, high) = identities();
        let (called, caller) = if low_is_called { (low, high) } else { (high, low) };
        let relay = Relay::listen(transport).await;
        let called = Node::start(called, config(transport.any_port()), vec![]).await;
        relay.forward_to(&called);
        let member = Member { key: called.key(), addrs: vec![relay.addr()] };
        let caller = Node::start(caller, config(transport.any_port()), vec![member]).await;
        called.links.set_members(vec![caller.as_caller()]);
        within("both up", async { tokio::join!(called.up(caller.key()), caller.up(called.key())) }).await;
        let mut stream = caller.links.open(called.key(), ECHO).await.unwrap();

        let cut = Instant::now();
        relay.forwarding(false);
        // Fills every buffer on the way: closing must not wait for them to drain.
        let writing = tokio::spawn(async move {
            let block = vec![0; 64 * 1024];
            while stream.write_all(&block).await.is_ok() {}
        });
        let silent = |state| matches!(state, Some(PeerState::Down { cause: DownCause::Silent, .. }));
        within("noticed", async {
            tokio::join!(
                caller.until("silent", called.key(), silent),
                called.until("down", caller.key(), |state| !state.unwrap().is_up()),
            )
        })
        .await;
        assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
        assert!(cut.elapsed() > Duration::from_secs(1), "not for one late beat: {:?}", cut.elapsed());
        within("the stream's writer is released", writing).await.unwrap();

        relay.forwarding(true);
        within("up again", async { tokio::join!(called.up(caller.key()), caller.up(called.key())) }).await;
    }
}

#[tokio::test]
async fn removing_a_peer_that_does_not_listen_ends_its_streams_at_once() {
    for transport in Transport::BOTH {
        let (low, high) = identities();
        let relay = Relay::listen(transport).await;
        let patient = LinkConfig { silent_after: 6 * SOON, ..config(transport.any_port()) };
        let called = Node::start(high, patient.clone(), vec![]).await;
        relay.forward_to(&called);
        let member = Member { key: called.key(), addrs: vec![relay.addr()] };
        let caller = Node::start(low, patient, vec![member]).await;
        called.links.set_members(vec![caller.as_caller()]);
        within("both up", async { tokio::join!(called.up(caller.key()), caller.up(called.key())) }).await;
        let reader = ending(caller.links.open(called.key(), ECHO).await.unwrap());
        relay.forwarding(false);
        caller.links.set_members(vec![]);
        within("the reader is released", reader).await.unwrap();
        eventually("the connection is gone", || caller.links.connection_count(called.key()) == 0).await;
    }
}
