//! The gate: who gets in, who is thrown out.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use iris_p2p::{DownCause, Identity, Links, PeerState, StartError};
use support::{ECHO, Node, Transport, config, ending, eventually, identities, pair, patient_pair, say, within};

#[tokio::test]
async fn a_stranger_is_refused_on_both_transports() {
    for transport in [Transport::Tcp, Transport::Quic] {
        // Whichever of the two has the lower key and so would open the heartbeat.
        for stranger_is_lower in [true, false] {
            let (low, high) = identities();
            let (stranger, host) = if stranger_is_lower { (low, high) } else { (high, low) };
            let friend = Identity::ephemeral();
            let mut host = Node::start(host, config(transport.any_port()), vec![]).await;
            let stranger = Node::start(stranger, config(transport.any_port()), vec![host.as_member()]).await;
            let friend = Node::start(friend, config(transport.any_port()), vec![host.as_member()]).await;
            host.links.set_members(vec![friend.as_caller()]);
            host.echo();
            friend.up(host.key()).await;
            let refused =
                |state| matches!(state, Some(PeerState::Down { cause, .. }) if cause != DownCause::Connecting);
            stranger.until("refused", host.key(), refused).await;
            assert!(!stranger.links.is_up(host.key()));
            assert!(stranger.links.open(host.key(), ECHO).await.is_err());
            assert_eq!(host.links.watch().borrow().get(stranger.key()), None);

            // The same stranger is let in as soon as it is a member, without a restart of either.
            host.links.set_members(vec![friend.as_caller(), stranger.as_caller()]);
            stranger.up(host.key()).await;
            say(&mut stranger.links.open(host.key(), ECHO).await.unwrap(), "let in").await;
        }
    }
}

#[tokio::test]
async fn a_removed_member_is_cut_off_and_its_streams_end() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let (low, mut high) = patient_pair(transport).await;
        // Neither end may wait for ever on a stream of the closed connection.
        let our_end = ending(low.links.open(high.key(), ECHO).await.unwrap());
        let their_end = ending(high.inbound.as_mut().unwrap().accept().await.unwrap().2);
        low.links.set_members(vec![]);
        high.down(low.key()).await;
        let gone = || low.links.connection_count(high.key()) + high.links.connection_count(low.key()) == 0;
        eventually("no connection is left", gone).await;
        low.until("forgotten", high.key(), |state| state.is_none()).await;
        assert!(!low.links.is_up(high.key()));
        our_end.await.unwrap();
        their_end.await.unwrap();

        low.links.set_members(vec![high.as_member()]);
        within("back", async { tokio::join!(low.up(high.key()), high.up(low.key())) }).await;
    }
}

/// More often than a member may hold connections: whoever is closed must not be counted for ever.
#[tokio::test]
async fn a_member_may_go_and_come_back_any_number_of_times() {
    for transport in Transport::BOTH {
        let (low, high) = patient_pair(transport).await;
        for _ in 0..12 {
            low.links.set_members(vec![]);
            high.down(low.key()).await;
            low.links.set_members(vec![high.as_member()]);
            within("back", async { tokio::join!(low.up(high.key()), high.up(low.key())) }).await;
        }
    }
}

#[tokio::test]
async fn another_node_at_the_address_is_not_mistaken_for_the_member() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let (impostor, seeker) = identities();
        let impostor = Node::start(impostor, config(transport.any_port()), vec![]).await;
        let mut member = impostor.as_member();
        member.key = Identity::ephemeral().peer_id();
        let seeker = Node::start(seeker, config(transport.any_port()), vec![member.clone()]).await;
        let wrong = |state| matches!(state, Some(PeerState::Down { cause: DownCause::WrongIdentity, .. }));
        seeker.until("found to be another", member.key, wrong).await;

        // With the right address beside the wrong one the member is found.
        let right = Node::start(Identity::ephemeral(), config(transport.any_port()), vec![seeker.as_caller()]).await;
        let mut member = right.as_member();
        member.addrs.insert(0, impostor.addr());
        seeker.links.set_members(vec![member.clone()]);
        seeker.up(right.key()).await;
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_not_a_shared_port() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let first = Node::start(Identity::ephemeral(), config(transport.any_port()), vec![]).await;
        let second = Links::start(Identity::ephemeral(), config(first.addr()), vec![]).await;
        assert!(matches!(second.err(), Some(StartError::Listen { .. })), "{transport:?}");
    }
}

#[tokio::test]
async fn listen_addresses_are_known_after_start() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let node = Node::start(Identity::ephemeral(), config(transport.any_port()), vec![]).await;
        let addrs = node.links.listen_addrs();
        assert_eq!(addrs.len(), 1);
        assert!(!addrs[0].to_string().contains("/0"), "{addrs:?}");
    }
}

#[tokio::test]
async fn the_links_end_with_their_last_handle() {
    for transport in Transport::BOTH {
        let (low, high) = pair(transport).await;
        let Node { links, task, inbound, .. } = low;
        let peer = links.local();
        drop(links);
        within("the task ends", task).await.unwrap();
        assert!(within("no more streams", inbound.unwrap().accept()).await.is_none());
        high.down(peer).await;
    }
}
