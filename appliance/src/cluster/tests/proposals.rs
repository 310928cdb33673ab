//! Changes asked for at any member, through the death of the meta group's leader: carried out once.

use openraft::async_runtime::watch::WatchReceiver;

use super::*;
use crate::cluster::meta::MetaOutcome;
use crate::cluster::meta::admission::{JoinRefusal, SecretHash, TokenId};

const DEADLINE: Duration = Duration::from_secs(20);

const STRANGERS: u64 = 20;

fn newcomer(name: &str) -> NodeRecord {
    let key = Identity::ephemeral().peer_id();
    NodeRecord { name: name.to_owned(), key, p2p: Vec::new(), client: "192.0.2.1:1".to_owned() }
}

async fn issue(at: &Node, id: u8) {
    let (token, secret) = (TokenId([id; 8]), SecretHash::of(&[id; 32]));
    let call = MetaCall::IssueToken { id: token, secret, ttl_ms: 60_000 };
    assert_eq!(at.member.proposals.ask(call, DEADLINE).await, Ok(MetaOutcome::Changed));
}

async fn join(at: &Node, id: u8, record: &NodeRecord) -> MetaOutcome {
    let (token, secret) = (TokenId([id; 8]), SecretHash::of(&[id; 32]));
    at.member.proposals.ask(MetaCall::Join { token, secret, record: record.clone() }, DEADLINE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_is_decided_once_whoever_is_asked_and_whoever_dies() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let founding = founding(&[NodeId(1), NodeId(2), NodeId(3)]);
    let (one, two, three) = tokio::join!(
        start(&net, dir.path(), 1, &founding),
        start(&net, dir.path(), 2, &founding),
        start(&net, dir.path(), 3, &founding)
    );
    let (nas, pi) = (newcomer("nas"), newcomer("pi"));
    for (id, node) in [(1, &one), (2, &two), (3, &three)] {
        issue(node, id).await;
    }
    for node in [&one, &two, &three] {
        assert_eq!(join(node, 1, &nas).await, MetaOutcome::Joined(NodeId(4)), "the same answer from everybody");
    }
    let mut nodes = vec![one, two, three];
    let leads = nodes.iter().position(|node| node.member.proposals.leads()).expect("one leads");
    nodes.remove(leads).die().await;
    for node in &nodes {
        assert_eq!(join(node, 1, &nas).await, MetaOutcome::Joined(NodeId(4)), "also after its leader's death");
        let refused = join(node, 1, &pi).await;
        assert!(matches!(refused, MetaOutcome::JoinRefused(JoinRefusal::Used { .. })), "{refused:?}");
        assert_eq!(join(node, 2, &pi).await, MetaOutcome::Joined(NodeId(5)));
    }
    // What strangers try is answered, and leaves nothing in the log.
    let log_end =
        || nodes.iter().map(|node| node.member.proposals.meta.metrics().borrow_watched().last_log_index).max();
    let before = log_end();
    for _ in 0..STRANGERS {
        for node in &nodes {
            let (token, secret) = (TokenId([3; 8]), SecretHash::of(&[9; 32]));
            let call = MetaCall::Join { token, secret, record: newcomer("stranger") };
            let wrong = MetaOutcome::JoinRefused(JoinRefusal::WrongSecret);
            assert_eq!(node.member.proposals.ask(call, DEADLINE).await, Ok(wrong));
        }
    }
    // Others may have written meanwhile, but not as often.
    assert!(log_end().flatten() < before.flatten().map(|index| index + STRANGERS), "{:?} to {:?}", before, log_end());
    // Without a majority nothing is decided, and that is said in time.
    let last = nodes.remove(0);
    for node in nodes {
        node.die().await;
    }
    let token = TokenId([3; 8]);
    let call = MetaCall::Join { token, secret: SecretHash::of(&[3; 32]), record: newcomer("attic") };
    assert!(last.member.proposals.ask(call, Duration::from_secs(1)).await.is_err());
    last.die().await;
}
