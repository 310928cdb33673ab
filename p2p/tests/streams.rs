//! Streams between two nodes: what `open` promises about acceptance, limits and many at once.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use iris_p2p::{Identity, LinkConfig, OpenError, StreamKind};
use support::{ECHO, Node, Transport, config, identities, pair, say, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_stream_echoes_on_both_transports_and_both_ways() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let (mut low, mut high) = pair(transport).await;
        low.echo();
        high.echo();
        for (from, to) in [(&low, &high), (&high, &low)] {
            let mut stream = from.links.open(to.key(), ECHO).await.unwrap();
            assert_eq!((stream.peer(), stream.kind()), (to.key(), ECHO));
            say(&mut stream, "hello").await;
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            within("end of stream", stream.read_to_end(&mut rest)).await.unwrap();
            assert!(rest.is_empty());
        }
    }
}

#[tokio::test]
async fn fifty_streams_opened_at_once_all_work() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let (low, mut high) = pair(transport).await;
        high.echo();
        let mut opening = tokio::task::JoinSet::new();
        for n in 0..50 {
            let (links, peer) = (low.links.clone(), high.key());
            opening.spawn(async move {
                let mut stream = links.open(peer, ECHO).await.unwrap();
                say(&mut stream, &format!("stream {n}")).await;
                stream
            });
        }
        assert_eq!(within("fifty streams", opening.join_all()).await.len(), 50);
    }
}

#[tokio::test]
async fn a_megabyte_arrives_whole() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let (low, mut high) = pair(transport).await;
        let mut stream = low.links.open(high.key(), ECHO).await.unwrap();
        let (_, _, mut accepted) = high.inbound.as_mut().unwrap().accept().await.unwrap();
        let sent: Vec<u8> = (0..1_u32 << 20).map(|n| (n ^ n >> 8) as u8).collect();
        let sending = async {
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        within("transfer", async { tokio::join!(sending, accepted.read_to_end(&mut received)) }).await.1.unwrap();
        assert_eq!(received, sent);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_the_opener_and_frees_up_again() {
    for transport in Transport::BOTH {
        let (low, high) = identities();
        let short = LinkConfig { inbound_queue: 2, ..config(transport.any_port()) };
        let low = Node::start(low, short, vec![]).await;
        let high = Node::start(high, config(transport.any_port()), vec![low.as_member()]).await;
        full_queue(low, high).await;
    }
}

async fn full_queue(mut low: Node, high: Node) {
    low.links.set_members(vec![high.as_member()]);
    high.up(low.key()).await;

    let _first = high.links.open(low.key(), StreamKind(1)).await.unwrap();
    let _second = high.links.open(low.key(), StreamKind(2)).await.unwrap();
    assert_eq!(high.links.open(low.key(), StreamKind(3)).await.unwrap_err(), OpenError::Busy(low.key()));

    let mut inbound = low.inbound.take().unwrap();
    let (peer, kind, _taken) = within("accept", inbound.accept()).await.unwrap();
    assert_eq!((peer, kind), (high.key(), StreamKind(1)));
    high.links.open(low.key(), StreamKind(4)).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        kinds.push(within("accept", inbound.accept()).await.unwrap().1);
    }
    assert_eq!(kinds, [StreamKind(2), StreamKind(4)], "accepted ones arrive in order, the refused one never");
}

#[tokio::test]
async fn a_dropped_inbound_refuses_instead_of_swallowing() {
    for transport in Transport::BOTH {
        let (low, mut high) = pair(transport).await;
        high.inbound = None;
        assert_eq!(low.links.open(high.key(), ECHO).await.unwrap_err(), OpenError::NotAccepting(high.key()));
    }
}

#[tokio::test]
async fn the_limit_of_open_streams_spares_the_link() {
    for transport in [Transport::Tcp, Transport::Quic] {
        let (low, mut high) = pair(transport).await;
        high.echo();
        let mut held = Vec::new();
        let refused = loop {
            match low.links.open(high.key(), ECHO).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() <= 1_000);
        };
        assert_eq!(refused, OpenError::TooManyStreams(high.key()));
        say(held.last_mut().unwrap(), "the link stands").await;
        held.truncate(10);
        let mut stream = within("a place becomes free", async {
            loop {
                match low.links.open(high.key(), ECHO).await {
                    Ok(stream) => break stream,
                    Err(OpenError::Busy(_)) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await;
        say(&mut stream, "again").await;
    }
}

#[tokio::test]
async fn open_fails_at_once_without_a_link() {
    let node = Node::start(Identity::ephemeral(), config(Transport::Tcp.any_port()), vec![]).await;
    let stranger = Identity::ephemeral().peer_id();
    assert_eq!(node.links.open(stranger, ECHO).await.unwrap_err(), OpenError::NotConnected(stranger));
    assert!(!node.links.is_up(stranger));
}
