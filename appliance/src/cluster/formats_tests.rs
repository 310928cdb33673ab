//! What Raft keeps and sends, and the meta state, as fixtures (`iris_protocol::testing`): what an update must go on reading.

use std::collections::BTreeMap;

use bytes::Bytes;
use iris_p2p::PeerKey;
use iris_protocol::testing::{check_file, check_value};
use iris_protocol::versioned::{self, Versioned};
use iris_protocol::{NodeId, ShardId};
use iris_store::{AppliedMark, SnapshotId, SnapshotManifest, Subject};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId;
use openraft::vote::leader_id_adv::LeaderId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bulk;
use super::meta::admission::{Join, NewToken, SecretHash, TokenId};
use super::meta::*;
use super::meta_machine::Checkpoint;
use super::neighbours::Known;
use super::partition::Sight;
use super::proposals::{MetaCall, MetaReply};
use super::raft_types::{
    Command, Entry, LogId, StoredMembership, TypeConfig, Vote, decode, decode_entry, encode, encode_entry,
};
use super::raft_wire::{decode_append, encode_append};
use super::refused::Refused;
use super::standing::{Standing, StandingCall};

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(7, NodeId(3)).to_committed(), index)
}

fn vote() -> Vote {
    Vote::new_committed(7, NodeId(3))
}

fn membership() -> StoredMembership {
    let nodes = BTreeMap::from([(NodeId(1), ()), (NodeId(2), ()), (NodeId(3), ())]);
    let both = vec![[NodeId(1), NodeId(2)].into(), [NodeId(2), NodeId(3)].into()];
    StoredMembership::new(Some(log_id(5)), openraft::Membership::new(both, nodes).unwrap())
}

fn entries() -> Vec<(&'static str, Entry)> {
    let command = Command(Bytes::from_static(b"a command"));
    [
        ("log_entry_blank", openraft::EntryPayload::Blank),
        ("log_entry_command", openraft::EntryPayload::Normal(command)),
        ("log_entry_membership", openraft::EntryPayload::Membership(membership().membership().clone())),
    ]
    .into_iter()
    .zip(300..)
    .map(|((name, payload), index)| (name, Entry { log_id: log_id(index), payload }))
    .collect()
}

fn raft<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) {
    check_value(name, value, encode, |bytes| decode::<T>(name, bytes));
}

fn own<T: Versioned>(name: &str, value: &T) {
    check_value(name, value, versioned::encode, versioned::decode);
}

#[test]
fn entries_of_the_log() {
    for (name, entry) in entries() {
        check_value(
            name,
            &entry,
            |entry| encode_entry(entry).into(),
            |bytes| decode_entry(&Bytes::copy_from_slice(bytes)),
        );
    }
}

#[test]
fn what_the_log_keeps_beside_them() {
    raft("vote", &vote());
    raft("log_id", &log_id(1_000));
    raft("stored_membership", &membership());
}

#[test]
fn messages_of_raft() {
    let entries: Vec<Entry> = entries().into_iter().map(|(_, entry)| entry).collect();
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: vote(),
        prev_log_id: Some(log_id(299)),
        leader_commit: Some(log_id(298)),
        entries,
    };
    check_file("append_request", encode_append(&request)[4].into(), &encode_append(&request), |bytes| {
        let read = decode_append(Bytes::copy_from_slice(bytes)).unwrap();
        assert_eq!(encode_append(&read), encode_append(&request));
    });
    raft("append_answer_success", &AppendEntriesResponse::<TypeConfig>::Success);
    raft("append_answer_conflict", &AppendEntriesResponse::<TypeConfig>::Conflict);
    raft("append_answer_higher_vote", &AppendEntriesResponse::<TypeConfig>::HigherVote(vote()));
    raft("vote_request", &VoteRequest::<TypeConfig>::new(vote(), Some(log_id(9))));
    raft("vote_answer", &VoteResponse::<TypeConfig>::new(vote(), Some(log_id(9)), true));
    raft("transfer_request", &TransferLeaderRequest::<TypeConfig>::new(vote(), NodeId(2), Some(log_id(9))));
}

#[test]
fn the_way_of_a_snapshot() {
    let mark = AppliedMark { index: 9, log_id: encode(&log_id(9)).into(), membership: encode(&membership()).into() };
    let subject = Subject::Shard(ShardId(4));
    let manifest = SnapshotManifest { id: SnapshotId([6; 16]), subject, mark, chunks: 2, bytes: 70_000 };
    let (last_log_id, membership) = (Some(log_id(9)), membership());
    own("bulk_offer", &bulk::Offer { group: 5, vote: vote(), last_log_id, membership, manifest });
    own("bulk_reply_from", &bulk::Reply::From(3));
    own("bulk_reply_took", &bulk::Reply::Took(4));
    own("bulk_reply_working", &bulk::Reply::Working);
    own("bulk_reply_installed", &bulk::Reply::Installed(vote()));
    own("bulk_reply_refused", &bulk::Reply::Refused("no room".to_owned()));
}

fn key() -> PeerKey {
    "12D3KooWDec36TdX3yZBXxqJiUraaFyERaxQVxT3BQj9GaT451te".parse().unwrap()
}

fn record(name: &str) -> NodeRecord {
    NodeRecord {
        name: name.to_owned(),
        key: key(),
        p2p: vec!["192.0.2.1:8444".parse().unwrap(), "/ip4/192.0.2.1/udp/8444/quic-v1".parse().unwrap()],
        client: "192.0.2.1:8443".to_owned(),
    }
}

fn leaf(names: &[&str]) -> Leaf {
    let names = names.iter().map(ToString::to_string).collect();
    Leaf { cert_pem: "a certificate".to_owned(), names, until_ms: 1_900_000_000_000 }
}

fn founded() -> MetaState {
    MetaState {
        cluster: "c1".to_owned(),
        pki: Pki {
            ca_cert_pem: "the CA's certificate".to_owned(),
            ca_key_pem: Secret::new("the CA's key".to_owned()),
            ca_until_ms: 2_000_000_000_000,
            leaf: leaf(&["localhost"]),
            leaf_key_pem: Secret::new("the leaf's key".to_owned()),
        },
        token_keys: vec![TokenKey {
            kid: "k".to_owned(),
            private_pem: Secret::new("a key".to_owned()),
            public_pem: "its other half".to_owned(),
        }],
        nodes: BTreeMap::from([(NodeId(1), record("attic"))]),
        shards: vec![ShardRecord::founded_on(vec![NodeId(1)]), ShardRecord::founded_on(vec![NodeId(1)])],
        vnodes: vec![ShardId(0), ShardId(1), ShardId(0)],
        dedup: DedupSettings { window_ms: 691_200_000, keys_max: 10_000_000 },
        admissions: admission::Admissions::default(),
    }
}

fn commands() -> Vec<(&'static str, MetaCommand)> {
    let (token, secret) = (TokenId([1; 8]), SecretHash::of(&[2; 32]));
    let new = NewToken { id: token, secret: secret.clone(), now_ms: 1_000, ttl_ms: 3_600_000 };
    let mut newcomer = record("cellar");
    newcomer.key = "12D3KooWAvCESfwJFFTRMH9CgUgw3V1dKZeDuUoba1MM88KQG6qt".parse().unwrap();
    let join = Join { token, secret, record: newcomer, now_ms: 2_000 };
    let spare = NewToken { id: TokenId([3; 8]), now_ms: 1_500, ..new.clone() };
    vec![
        ("meta_command_found", MetaCommand::Found(Box::new(founded()))),
        ("meta_command_issue_token", MetaCommand::IssueToken(new)),
        ("meta_command_issue_spare", MetaCommand::IssueToken(spare)),
        ("meta_command_join", MetaCommand::Join(join)),
        ("meta_command_describe", MetaCommand::Describe(NodeId(1), record("loft"))),
        ("meta_command_leaf", MetaCommand::Leaf(leaf(&["localhost", "loft"]))),
        (
            "meta_command_place",
            MetaCommand::Place { shard: ShardId(1), before: vec![NodeId(1)], replicas: vec![NodeId(2), NodeId(1)] },
        ),
        ("meta_command_placed", MetaCommand::Placed { shard: ShardId(1), voters: vec![NodeId(1), NodeId(2)], at: 40 }),
    ]
}

fn replace() -> MetaCommand {
    let mut record = record("cellar");
    record.key = "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV".parse().unwrap();
    MetaCommand::Replace { old: NodeId(2), record }
}

/// The commands make the state: a fixture of it has every part.
#[test]
fn meta_commands_the_state_they_make_and_its_checkpoint() {
    let mut meta = Meta::default();
    for (name, command) in commands() {
        own(name, &command);
        let outcome = meta.apply(command);
        assert!(outcome.has_changed(), "{name}: {outcome:?}");
    }
    own("meta_state", &meta);
    let checkpoint = Checkpoint::new(Some(log_id(8)), membership(), &meta);
    // The state in it has a version of its own, and is written as the newest.
    let today = encode(&checkpoint);
    check_file("meta_checkpoint", 1, &today, |bytes| {
        assert_eq!(Checkpoint::read(bytes).unwrap(), (Some(log_id(8)), membership(), meta.clone()));
    });
    assert_eq!(Checkpoint::read(&today).unwrap(), (Some(log_id(8)), membership(), meta.clone()));
    own("meta_command_replace", &replace());
    assert_eq!(meta.apply(replace()), MetaOutcome::Joined(NodeId(3)));
    own("meta_state_replacing", &meta);
}

#[test]
fn what_a_member_says_of_the_cluster_to_one_in_quarantine() {
    own("standing_call", &StandingCall { what: "the Raft log is damaged".to_owned() });
    let (cluster, ca_pem) = ("c1".to_owned(), "the CA's certificate".to_owned());
    let (members, you) = (founded().nodes, Some(NodeId(1)));
    own("standing", &Standing { cluster, ca_pem, members, you, yours: vec![0, 1], led: vec![1, 2] });
}

#[test]
fn calls_to_the_meta_leader() {
    let (token, secret) = (TokenId([1; 8]), SecretHash::of(&[2; 32]));
    own("meta_call_describe", &MetaCall::Describe(record("attic")));
    own("meta_call_issue", &MetaCall::IssueToken { id: token, secret: secret.clone(), ttl_ms: 3_600_000 });
    own("meta_call_join", &MetaCall::Join { token, secret, record: record("cellar") });
    own("meta_call_placed", &MetaCall::Placed { shard: ShardId(1), voters: vec![NodeId(1)], at: 40 });
    own("meta_call_replace", &MetaCall::Replace(record("cellar")));
    own("sight", &Sight { run: 7_000_000_000, sees: [NodeId(1), NodeId(300)].into() });
    own("known_members", &Known { applied: 40, members: founded().nodes });
    own("meta_reply_joined", &MetaReply(Ok(MetaOutcome::Joined(NodeId(4)))));
    own("meta_reply_not_leader", &MetaReply(Err(Refused::NotLeader { leader: Some(NodeId(2)) })));
}
