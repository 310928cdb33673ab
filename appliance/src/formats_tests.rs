//! What edges and shard leaders say to each other, and the formats of joining, as fixtures (`iris_protocol::testing`): what an
//! update must go on reading. Raft's and the meta group's are in `cluster`.

use std::time::Duration;

use bytes::Bytes;
use iris_p2p::PeerKey;
use iris_protocol::testing::{check_file, check_value};
use iris_protocol::versioned::{self, Versioned};
use iris_protocol::{DeviceId, EntryId, MessageKey, NodeId, UserId};
use iris_store::{Entry, Outcome};

use crate::admission::token::{JoinSecret, JoinToken};
use crate::admission::wire::{Admitted, JoinAnswer, JoinRequest, Refusal};
use crate::admission::{Membership, Origin};
use crate::cluster::Refused;
use crate::cluster::meta::NodeRecord;
use crate::cluster::meta::admission::{JoinRefusal, TokenId};
use crate::quarantine::{Note, Stage};
use crate::routing::wire::{self, CursorCall, ReadCall};
use crate::routing::{InboxPage, PageRequest};

fn own<T: Versioned>(name: &str, value: &T) {
    check_value(name, value, versioned::encode, versioned::decode);
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn phone() -> DeviceId {
    DeviceId::new("phone").unwrap()
}

#[test]
fn calls_of_an_edge() {
    let wait = Duration::from_secs(25);
    let device = Some(phone());
    let request = PageRequest { after: EntryId(300), entries_max: 256, wait, confirm: true, device };
    own("read_call", &ReadCall::new(&user("bob"), &request));
    own("cursor_call", &CursorCall { user: user("bob"), device: phone() });
}

#[test]
fn answers_to_an_edge() {
    let id = EntryId(300);
    let outcomes = vec![
        Outcome::Appended(id),
        Outcome::Duplicate(id),
        Outcome::KeyConflict,
        Outcome::CursorMoved(id),
        Outcome::Stale,
        Outcome::Done,
    ];
    for (name, answer) in [
        ("append_outcomes", Ok(outcomes)),
        ("append_not_leader", Err(Refused::NotLeader { leader: Some(NodeId(2)) })),
        ("append_overloaded", Err(Refused::Overloaded)),
        ("append_disk_full", Err(Refused::DiskFull)),
        ("append_failed", Err(Refused::Failed("broken".to_owned()))),
    ] {
        check_value(name, &answer, |answer| wire::encode_outcomes(answer.clone()).into(), wire::decode_outcomes);
    }
    check_value("cursor_answer", &Ok(id), |answer| wire::encode_cursor(answer.clone()).into(), wire::decode_cursor);
    let (sender, key, body) = (user("älice"), MessageKey([1; 16]), Bytes::from_static(b"hello"));
    let page =
        InboxPage { entries: vec![Entry { id, sender, kind: 7, key, body }], scanned_to: EntryId(400), live: true };
    check_value("page", &Ok(page), |answer| wire::encode_page(answer.clone()).into(), wire::decode_page);
}

fn key() -> PeerKey {
    "12D3KooWDec36TdX3yZBXxqJiUraaFyERaxQVxT3BQj9GaT451te".parse().unwrap()
}

fn record() -> NodeRecord {
    let p2p = vec!["192.0.2.1:8444".parse().unwrap()];
    NodeRecord { name: "attic".to_owned(), key: key(), p2p, client: "192.0.2.1:8443".to_owned() }
}

#[test]
fn a_note_of_quarantine() {
    let note = |stage| Note { what: "the log".to_owned(), found_ms: 1_795_000_000_000, stage };
    own("quarantine_note", &note(Stage::Waiting));
    own("quarantine_note_moving", &note(Stage::MovingAside("quarantine-x".to_owned())));
    own("quarantine_note_taking_up", &note(Stage::TakingUp("quarantine-x".to_owned())));
}

/// Its text is what travels; the version is in it.
#[test]
fn a_join_token() {
    let token = JoinToken {
        cluster: "c1".to_owned(),
        ca_sha256: [1; 32],
        addresses: vec!["192.0.2.1:8443".to_owned(), "attic.lan:8443".to_owned()],
        id: TokenId([2; 8]),
        secret: JoinSecret::new([3; 32]),
        expires_ms: 1_795_000_000_000,
    };
    let today = token.expose().into_bytes();
    let newest = check_file("join_token", JoinToken::VERSION.into(), &today, |text| {
        assert_eq!(std::str::from_utf8(text).unwrap().parse(), Ok(token.clone()));
    });
    assert_eq!(newest, today);
}

#[test]
fn what_is_said_at_the_door() {
    let request = JoinRequest {
        cluster: "c1".to_owned(),
        token: TokenId([2; 8]),
        secret: JoinSecret::new([3; 32]),
        key: key(),
        name: "cellar".to_owned(),
        p2p: vec!["192.0.2.2:8444".parse().unwrap()],
        client: "192.0.2.2:8443".to_owned(),
        software: "iris/0.1.0".to_owned(),
    };
    own("join_request", &request);
    let (node, cluster, ca_pem) = (NodeId(2), "c1".to_owned(), "the CA's certificate".to_owned());
    let admitted = Admitted { node, cluster: cluster.clone(), members: vec![(NodeId(1), record())], ca_pem };
    own("join_answer_admitted", &JoinAnswer::Admitted(admitted));
    for (name, refusal) in [
        ("join_answer_wrong_secret", Refusal::Decided(JoinRefusal::WrongSecret)),
        ("join_answer_used", Refusal::Decided(JoinRefusal::Used { node: NodeId(4), name: "nas".to_owned(), at_ms: 9 })),
        ("join_answer_foreign", Refusal::Foreign { cluster }),
        ("join_answer_too_often", Refusal::TooOften { retry_after_s: 60 }),
        ("join_answer_not_now", Refusal::NotNow("no leader".to_owned())),
        ("join_answer_malformed", Refusal::Malformed("what?".to_owned())),
        ("join_answer_version", Refusal::Version { known: 1 }),
    ] {
        own(name, &JoinAnswer::Refused(refusal));
    }
}

#[test]
fn a_nodes_place() {
    let place = Membership {
        node: NodeId(2),
        key: key(),
        cluster: "c1".to_owned(),
        origin: Origin::Joined,
        settled: true,
        seeds: vec![(NodeId(1), record())],
        ca_pem: "the CA's certificate".to_owned(),
    };
    own("membership", &place);
    let dir = tempfile::tempdir().unwrap();
    place.save(dir.path()).unwrap();
    let path = dir.path().join("membership");
    let today = std::fs::read(&path).unwrap();
    // Behind the magic of a checked file.
    let version = u16::from_le_bytes([today[8], today[9]]);
    let newest = check_file("membership_file", version.into(), &today, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Membership::load(dir.path()).unwrap().as_ref(), Some(&place));
    });
    assert_eq!(newest, today);
}
