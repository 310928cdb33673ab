//! B5, B6 and fault 21, FUZZ: raw bytes on the client port, before and after TLS, before and after login, and on the peers' port.
//! The node lives, counts them, and whoever else is connected notices nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use iris_client::{Outgoing, UserId};
use iris_protocol::frame::{ClientFrame, ServerFrame};
use iris_tests::cluster::Cluster;
use iris_tests::raw::RawConnection;
use iris_tests::seed::{Seed, rounds};
use iris_tests::wait::within;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(30);

fn some_bytes(rng: &mut StdRng) -> Vec<u8> {
    let len = rng.random_range(1..3_000);
    (0..len).map(|_| rng.random()).collect()
}

/// Frames that are nearly right: a real type with a random body, or a length that promises too much.
fn near_frame(rng: &mut StdRng) -> Vec<u8> {
    let body: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
    let len = if rng.random_bool(0.2) { rng.random::<u32>() } else { body.len() as u32 + 1 };
    let kind = rng.random_range(0u8..0x50);
    [len.to_be_bytes().as_slice(), &[kind], &body].concat()
}

/// Writes bytes to a port without TLS and waits until the node hangs up, or until it clearly waits for more.
async fn throw(address: &str, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    // The node may hang up in the middle; that is its right.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut rest = Vec::new();
    let _ = within("the node to hang up", DEADLINE, stream.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_harms_nobody_else() {
    let seed = Seed::pick();
    let mut rng = seed.rng("garbage");
    let mut cluster = Cluster::start(3).await.unwrap();
    let (alice, mallory) = (UserId::new("alice").unwrap(), UserId::new("mallory").unwrap());
    let good = cluster.client_at(&alice, "good", 0).await.unwrap();
    good.connected().await.unwrap();
    let token = cluster.token(&mallory).await.unwrap();
    let ca = cluster.ca_pem().unwrap().to_owned();
    let (client_port, p2p_port) = (cluster.addresses()[0].clone(), cluster.node(0).p2p_port.address());
    for _ in 0..rounds(40) {
        throw(&client_port, &some_bytes(&mut rng)).await;
        throw(&p2p_port, &some_bytes(&mut rng)).await;
        // Under TLS, before and after login.
        let mut stranger = RawConnection::dial(&client_port, &ca).await.unwrap();
        let _ = stranger.write_bytes(&some_bytes(&mut rng)).await;
        drop(stranger);
        let mut user = RawConnection::login(&client_port, &ca, &token, "raw").await.unwrap();
        for _ in 0..5 {
            if user.write_bytes(&near_frame(&mut rng)).await.is_err() {
                break;
            }
        }
        drop(user);
        good.send_and_wait(Outgoing::new(alice.clone(), "still here")).await.unwrap();
    }
    assert_eq!(good.stats().reconnects(), 0, "the good client's connection was never touched: {:?}", good.stats());
    cluster.wait_ready().await.unwrap();
    let counters = cluster.status(0).await.unwrap().counters;
    assert!(counters.bad_frames > 0, "broken frames are counted: {counters:?}");
    assert_eq!(counters.task_restarts, 0, "no task panicked: {counters:?}");
}

/// What a node says last before it closes.
async fn last_words(connection: &mut RawConnection) -> Option<ServerFrame> {
    let mut last = None;
    while let Ok(Some(frame)) = connection.read().await {
        last = Some(frame);
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_frame_is_answered_with_an_error_and_a_close() {
    let cluster = Cluster::start(1).await.unwrap();
    let user = UserId::new("mallory").unwrap();
    let token = cluster.token(&user).await.unwrap();
    let (address, ca) = (cluster.addresses()[0].clone(), cluster.ca_pem().unwrap().to_owned());
    let code = |frame: Option<ServerFrame>| match frame {
        Some(ServerFrame::Error { code, .. }) => code.name(),
        other => panic!("no ERROR but {other:?}"),
    };
    let mut stranger = RawConnection::dial(&address, &ca).await.unwrap();
    stranger.write(&ClientFrame::Ping { nonce: 1 }).await.unwrap();
    assert_eq!(code(last_words(&mut stranger).await), "not_logged_in");
    let mut huge = RawConnection::login(&address, &ca, &token, "raw").await.unwrap();
    huge.write_bytes(&[0xff, 0xff, 0xff, 0xff]).await.unwrap();
    assert_eq!(code(last_words(&mut huge).await), "malformed");
    let mut twice = RawConnection::login(&address, &ca, &token, "raw").await.unwrap();
    twice.hello(&token, "raw").await.unwrap();
    assert_eq!(code(last_words(&mut twice).await), "malformed");
    let mut unknown = RawConnection::login(&address, &ca, &token, "raw").await.unwrap();
    unknown.write_bytes(&[0, 0, 0, 1, 0x3f]).await.unwrap();
    assert_eq!(code(last_words(&mut unknown).await), "malformed");
}

/// B6: who connects and says nothing, or stops in the middle of a HELLO, is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_strangers_are_closed_at_their_deadlines() {
    use iris_tests::cluster::Options;
    let options = Options::nodes(1)
        .with("edge", "handshake_ms", 500)
        .with("edge", "login_ms", 500)
        .with("edge", "idle_ms", 1_000);
    let cluster = Cluster::start_with(options).await.unwrap();
    let (address, ca) = (cluster.addresses()[0].clone(), cluster.ca_pem().unwrap().to_owned());
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut rest = Vec::new();
    let _ = within("a silent TCP connection to be closed", DEADLINE, silent.read_to_end(&mut rest)).await.unwrap();
    let mut half = RawConnection::dial(&address, &ca).await.unwrap();
    half.write_bytes(&[0, 0, 0]).await.unwrap();
    let words = within("half a HELLO to be closed", DEADLINE, last_words(&mut half)).await.unwrap();
    assert!(matches!(&words, Some(ServerFrame::Error { code, .. }) if code.name() == "timeout"), "{words:?}");
    let token = cluster.token(&UserId::new("idle").unwrap()).await.unwrap();
    let mut idle = RawConnection::login(&address, &ca, &token, "raw").await.unwrap();
    let words = within("an idle session to be closed", DEADLINE, last_words(&mut idle)).await.unwrap();
    assert!(matches!(&words, Some(ServerFrame::Error { code, .. }) if code.name() == "timeout"), "{words:?}");
}
