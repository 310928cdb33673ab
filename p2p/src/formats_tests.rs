//! What members send each other on every link, and what a node keeps of itself and of them, as fixtures
//! (`iris_protocol::testing`): what an update must go on reading.

use futures::AsyncWriteExt;
use iris_protocol::testing::{check_file, check_value};
use iris_protocol::versioned;
use libp2p::identity::{Keypair, ed25519};
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::heartbeat::Beat;
use crate::hello::{self, Purpose, Verdict};
use crate::{AddressBook, Identity, PeerKey, StreamKind};

const KEY: &str = "12D3KooWDec36TdX3yZBXxqJiUraaFyERaxQVxT3BQj9GaT451te";

fn key() -> PeerKey {
    KEY.parse().unwrap()
}

#[test]
fn beats() {
    let beat = Beat { sequence: 258, seen: 3 };
    check_value(
        "heartbeat",
        &beat,
        |beat| beat.encode().to_vec(),
        |bytes| bytes.try_into().ok().and_then(Beat::decode).ok_or("no beat"),
    );
}

#[tokio::test]
async fn hellos_and_their_answers() {
    for (name, purpose) in [("hello", Purpose::Caller(StreamKind(9))), ("hello_heartbeat", Purpose::Heartbeat)] {
        let (ours, theirs) = tokio::io::duplex(64);
        let (mut ours, mut theirs) = (ours.compat(), theirs.compat());
        // Ends when the other side is gone, having said its hello.
        let offering = async { hello::offer(&mut ours, purpose).await };
        let hearing = async {
            let mut said = [0; 3];
            futures::AsyncReadExt::read_exact(&mut theirs, &mut said).await.unwrap();
            drop(theirs);
            said
        };
        let (_, today) = tokio::join!(offering, hearing);
        let newest = check_file(name, today[0].into(), &today, |bytes| {
            let (ours, theirs) = tokio::io::duplex(64);
            let (mut ours, mut theirs) = (ours.compat(), theirs.compat());
            let read = async {
                ours.write_all(bytes).await.unwrap();
                hello::read(&mut theirs).await.unwrap()
            };
            assert_eq!(futures::executor::block_on(read), purpose);
        });
        assert_eq!(newest, today);
    }
    for (name, verdict) in [
        ("hello_answer_yes", Verdict::Accepted),
        ("hello_answer_busy", Verdict::Busy),
        ("hello_answer_no", Verdict::NotAccepting),
    ] {
        check_value(
            name,
            &verdict,
            |verdict| verdict.encode().to_vec(),
            |bytes| Verdict::decode(bytes.try_into().unwrap()),
        );
    }
}

#[test]
fn an_identity() {
    const MAGIC_LEN: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.key");
    Identity::load_or_create(&path).unwrap();
    let mut today = std::fs::read(&path).unwrap();
    // Nobody's key, and always the same.
    let secret = ed25519::SecretKey::try_from_bytes([7; 32]).unwrap();
    let pair = ed25519::Keypair::from(secret);
    today.splice(MAGIC_LEN.., pair.to_bytes());
    let newest = check_file("identity", today[MAGIC_LEN - 1].into(), &today, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let read = Identity::load_or_create(&path).unwrap();
        assert_eq!(read.peer_id(), PeerKey::from_id(Keypair::from(pair.clone()).public().to_peer_id()));
    });
    assert_eq!(newest, today);
}

#[test]
fn an_address_book() {
    let mut book = AddressBook::default();
    book.describe(key(), &["192.0.2.7:7400".parse().unwrap(), "nas.local:7400".parse().unwrap()], 1_000);
    book.discovered(key(), "/ip4/192.0.2.8/udp/7400/quic-v1".parse().unwrap(), 2_000);
    book.good(key(), "192.0.2.7:7400".parse().unwrap(), 3_000);
    check_value("address_book", &book, versioned::encode, versioned::decode);
}
