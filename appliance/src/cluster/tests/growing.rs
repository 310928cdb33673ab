//! A cluster of one becomes a cluster of three while messages flow: each newcomer ends as a voter of every group.

use super::*;
use crate::cluster::meta::MetaOutcome;
use crate::cluster::meta::admission::{SecretHash, TokenId};

const DEADLINE: Duration = Duration::from_secs(20);

const HOUR_MS: u64 = 3_600_000;

/// Lets a node in, as the admission does for a token's bearer.
async fn admit(by: &Node, record: &NodeRecord, token: u8) -> NodeId {
    let (id, secret) = (TokenId([token; 8]), SecretHash::of(&[token; 32]));
    let issue = MetaCall::IssueToken { id, secret: secret.clone(), ttl_ms: HOUR_MS };
    assert_eq!(by.member.proposals.ask(issue, DEADLINE).await.unwrap(), MetaOutcome::Changed);
    let join = MetaCall::Join { token: id, secret, record: record.clone() };
    match by.member.proposals.ask(join, DEADLINE).await.unwrap() {
        MetaOutcome::Joined(node) => node,
        other => panic!("{other:?}"),
    }
}

async fn admitted(by: &Node, id: u64) -> BTreeMap<NodeId, NodeRecord> {
    let record = record(NodeId(id));
    assert_eq!(admit(by, &record, id as u8).await, NodeId(id));
    let mut nodes = by.member.meta_view.borrow().clone().unwrap().nodes.clone();
    nodes.insert(NodeId(id), record);
    nodes
}

async fn join(net: &Net, dir: &Path, by: &Node, id: u64) -> Node {
    try_run(net, dir, id, admitted(by, id).await, None, StoreOptions::default()).await.unwrap()
}

pub(super) async fn join_on(net: &Net, dir: &Path, by: &Node, id: u64, warm: Arc<dyn WarmStore>) -> Node {
    try_run_on(net, dir, id, admitted(by, id).await, None, warm).await.unwrap()
}

/// Waits until every group has these voters, as the meta state tells and as each group says itself.
pub(super) async fn settled(node: &Node, voters: &[u64]) {
    let voters: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let state = node.member.meta_view.borrow().clone().unwrap();
        let meta: Vec<NodeId> = node.member.meta.voter_ids().collect();
        let placed = state.shards.iter().all(|record| {
            let mut now = record.voters.clone();
            now.sort();
            now == voters
        });
        if placed && meta == voters {
            return;
        }
        assert!(tokio::time::Instant::now() < give_up, "{:?}, meta {meta:?}", state.shards);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_becomes_three_while_messages_flow() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let one = start(&net, dir.path(), 1, &founding(&[NodeId(1)])).await;
    let mut expected = Vec::new();
    for key in 0..10 {
        expected.push((one.committed("alice", key).await, key));
    }
    let growing = async {
        let two = join(&net, dir.path(), &one, 2).await;
        let three = join(&net, dir.path(), &two, 3).await;
        settled(&one, &[1, 2, 3]).await;
        (two, three)
    };
    let sending = async {
        for key in 10..=250 {
            expected.push((one.committed("alice", key).await, key));
            tokio::task::yield_now().await;
        }
    };
    let ((two, three), ()) = tokio::join!(growing, sending);
    for node in [&one, &two, &three] {
        assert_eq!(node.read("alice").await, expected, "through node {}", node.member.node);
    }
    // The founder may go now: the two that joined have everything.
    one.die().await;
    assert_eq!(three.read("alice").await, expected);
    expected.push((two.committed("alice", 251).await, 251));
    assert_eq!(three.read("alice").await, expected);
    for node in [two, three] {
        node.die().await;
    }
}
