//! Three members in one process over an in-memory transport: founding, appending through any node, dedup, reading, a node that
//! dies, a restart from checkpoint and log. The same with real processes is in the tests crate.

mod full_disk;
mod proposals;
mod wanting;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use iris_p2p::Identity;
use iris_protocol::{EntryId, MessageKey, NodeId, UserId};
use iris_store::{LogOptions, RaftLog, StoreOptions, Warm, WarmStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::meta::{DedupSettings, MetaState, NodeRecord};
use super::placement::{first_layout, first_vnodes};
use super::transport::{PeerAcceptor, PeerStream, PeerTransport};
use super::*;
use crate::auth::{pki, token};
use crate::disk::{Disk, DiskState};
use crate::routing::{PageRequest, Reply, Router, RouterParts, Submission, SubmitOutcome, Work};
use crate::supervise::Supervisor;
use crate::surroundings::Surroundings;

type Inbox = mpsc::Sender<(NodeId, Channel, PeerStream)>;

#[derive(Clone, Default)]
struct Net(Arc<Mutex<HashMap<NodeId, Inbox>>>);

struct NetEnd(Net, NodeId);
struct NetAcceptor(mpsc::Receiver<(NodeId, Channel, PeerStream)>);

impl PeerTransport for NetEnd {
    fn open(&self, node: NodeId, channel: Channel) -> BoxFuture<'_, anyhow::Result<PeerStream>> {
        Box::pin(async move {
            let inbox = self.0.0.lock().unwrap().get(&node).cloned();
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let sent = inbox.ok_or_else(|| anyhow::anyhow!("down"))?.try_send((self.1, channel, Box::new(theirs)));
            sent.map_err(|_| anyhow::anyhow!("down"))?;
            Ok(Box::new(ours) as PeerStream)
        })
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.0.0.lock().unwrap().get(&node).is_some_and(|inbox| !inbox.is_closed())
    }
}

impl PeerAcceptor for NetAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, Option<(NodeId, Channel, PeerStream)>> {
        Box::pin(self.0.recv())
    }
}

fn record(id: NodeId) -> NodeRecord {
    NodeRecord {
        name: format!("n{id}"),
        key: Identity::ephemeral().peer_id(),
        p2p: Vec::new(),
        client: format!("127.0.0.1:{id}"),
    }
}

fn founding(nodes: &[NodeId]) -> MetaState {
    MetaState {
        cluster: "test".to_owned(),
        pki: pki::found("test", &[], Surroundings::system().clock.unix_ms()).unwrap(),
        token_keys: vec![token::new_key().unwrap()],
        nodes: nodes.iter().map(|id| (*id, record(*id))).collect::<BTreeMap<_, _>>(),
        shards: first_layout(nodes, 2),
        vnodes: first_vnodes(2),
        dedup: DedupSettings { window_ms: 3_600_000, keys_max: 100_000 },
        admissions: Default::default(),
    }
}

mod growing;

struct Node {
    member: Member,
    router: Router,
    supervisor: Supervisor,
    log: RaftLog,
    net: Net,
    disk: tokio::sync::watch::Sender<DiskState>,
}

/// The last tasks of a node that just died may hold its log a moment longer.
async fn open_log(folder: &Path) -> RaftLog {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match RaftLog::open(LogOptions::new(folder.join("log"))) {
            Ok(log) => return log,
            Err(error) => assert!(tokio::time::Instant::now() < give_up, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn start(net: &Net, dir: &Path, id: u64, founding: &MetaState) -> Node {
    try_start(net, dir, id, founding).await.unwrap()
}

async fn try_start(net: &Net, dir: &Path, id: u64, founding: &MetaState) -> anyhow::Result<Node> {
    start_with(net, dir, id, founding, StoreOptions::default()).await
}

async fn start_with(net: &Net, dir: &Path, id: u64, founding: &MetaState, store: StoreOptions) -> anyhow::Result<Node> {
    try_run(net, dir, id, founding.nodes.clone(), Some(founding.clone()), store).await
}

async fn try_run(
    net: &Net,
    dir: &Path,
    id: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    founding: Option<MetaState>,
    store: StoreOptions,
) -> anyhow::Result<Node> {
    let folder = dir.join(format!("n{id}"));
    std::fs::create_dir_all(&folder).unwrap();
    run_on(net, dir, id, nodes, founding, store, &|| Arc::new(Warm::open(&folder.join("inboxes.db")).unwrap())).await
}

/// On a store of the caller's.
async fn try_run_on(
    net: &Net,
    dir: &Path,
    id: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    founding: Option<MetaState>,
    warm: Arc<dyn WarmStore>,
) -> anyhow::Result<Node> {
    run_on(net, dir, id, nodes, founding, StoreOptions::default(), &|| warm.clone()).await
}

/// The store is opened behind the log, as a node does.
async fn run_on(
    net: &Net,
    dir: &Path,
    id: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    founding: Option<MetaState>,
    store: StoreOptions,
    open_warm: &(dyn Fn() -> Arc<dyn WarmStore> + Sync),
) -> anyhow::Result<Node> {
    let me = NodeId(id);
    let (inbox, acceptor) = mpsc::channel(64);
    net.0.lock().unwrap().insert(me, inbox);
    let supervisor = Supervisor::new();
    let folder = dir.join(format!("n{id}"));
    std::fs::create_dir_all(&folder).unwrap();
    let log = open_log(&folder).await;
    let (tell_disk, disk) = Disk::told(Disk::default().state());
    let options = MemberOptions {
        node: me,
        describe: {
            let own = nodes[&me].clone();
            Arc::new(move || own.clone())
        },
        roster: tokio::sync::watch::Sender::new(nodes),
        meta_path: folder.join("meta"),
        log: log.clone(),
        warm: open_warm(),
        store,
        checkpoint_every: Duration::from_millis(200),
        retention: RetentionSettings { keep: Duration::from_secs(3600), device_expiry: Duration::from_secs(3600) },
        timing: RaftTiming { heartbeat_ms: 50, election_ms_min: 200, election_ms_max: 400 },
        transport: Arc::new(NetEnd(net.clone(), me)),
        acceptor: Box::new(NetAcceptor(acceptor)),
        surroundings: Surroundings::system(),
        founding,
        settled: false,
        snapshot_dir: folder.join("snapshots"),
        log_bytes_max: 64 * 1024 * 1024,
        disk,
    };
    let member = Member::start(options, &supervisor, &CancellationToken::new()).await?;
    let parts = RouterParts {
        node: me,
        meta: member.meta_view.clone(),
        shards: member.shards.clone(),
        clients: member.clients.clone(),
        random: Surroundings::system().random,
    };
    let state = member.meta_view.borrow().clone().unwrap();
    let (router, uplinks) = Router::new(parts, &state);
    for mut uplink in uplinks {
        let stop = supervisor.stopping();
        tokio::spawn(async move { uplink.run(&stop).await });
    }
    let (following, shards, stop) = (router.clone(), member.shards.clone(), supervisor.stopping());
    tokio::spawn(async move { following.follow(shards, &stop).await });
    Ok(Node { member, router, supervisor, log, net: net.clone(), disk: tell_disk })
}

impl Node {
    /// Off the network and without tasks: as good as dead, for the others.
    async fn die(self) {
        self.net.0.lock().unwrap().remove(&self.member.node);
        for group in self.member.shards.by_id().values() {
            group.raft.shutdown().await.unwrap();
        }
        self.member.meta.shutdown().await.unwrap();
        assert!(self.supervisor.shut_down(Duration::from_secs(5)).await);
        self.log.shutdown();
        assert!(self.log.closed().await.is_none());
    }

    async fn send(&self, to: &str, key: u8) -> SubmitOutcome {
        let (replies, mut answered) = mpsc::channel::<Reply>(1);
        let work = Work::Message {
            sender: UserId::new("bob").unwrap(),
            key: MessageKey([key; 16]),
            recipient: UserId::new(to).unwrap(),
            kind: 0,
            body: Bytes::from(vec![key]),
        };
        let session = self.router.new_session();
        self.router.submit(Submission { session, ticket: 1, epoch: 0, work, replies }).unwrap();
        tokio::time::timeout(Duration::from_secs(20), answered.recv()).await.unwrap().unwrap().outcome
    }

    async fn committed(&self, to: &str, key: u8) -> EntryId {
        match self.send(to, key).await {
            SubmitOutcome::Committed { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    async fn read(&self, user: &str) -> Vec<(EntryId, u8)> {
        let request =
            PageRequest { after: EntryId::ZERO, entries_max: 1000, wait: Duration::ZERO, confirm: true, device: None };
        let page = self.router.read_page(&UserId::new(user).unwrap(), request).await.unwrap();
        page.entries.into_iter().map(|entry| (entry.id, entry.body[0])).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_agree_and_survive_one_death_and_a_restart() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let founding = founding(&[NodeId(1), NodeId(2), NodeId(3)]);
    let (one, two, three) = tokio::join!(
        start(&net, dir.path(), 1, &founding),
        start(&net, dir.path(), 2, &founding),
        start(&net, dir.path(), 3, &founding)
    );
    let mut expected = Vec::new();
    for (key, node) in [&one, &two, &three].into_iter().cycle().take(30).enumerate() {
        expected.push((node.committed("alice", key as u8).await, key as u8));
    }
    assert!(expected.is_sorted());
    for node in [&one, &two, &three] {
        assert_eq!(node.read("alice").await, expected);
    }
    // The same key again, through another node: the first entry's id, and no second entry.
    assert_eq!(two.send("alice", 0).await, SubmitOutcome::Committed { id: expected[0].0, duplicate: true });
    assert_eq!(two.send("carol", 0).await, SubmitOutcome::KeyConflict);

    one.die().await;
    for key in 100..120 {
        expected.push((two.committed("alice", key).await, key));
    }
    let one = start(&net, dir.path(), 1, &founding).await;
    for key in 120..130 {
        expected.push((one.committed("alice", key).await, key));
    }
    for node in [&one, &two, &three] {
        assert_eq!(node.read("alice").await, expected);
    }
    for node in [one, two, three] {
        node.die().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_only_the_disk_knows_is_found_by_every_leader() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let founding = founding(&[NodeId(1), NodeId(2), NodeId(3)]);
    let few = StoreOptions { dedup_recent_keys: 16, dedup_bucket_keys_max: 20, ..StoreOptions::default() };
    let start = async |id| start_with(&net, dir.path(), id, &founding, few.clone()).await.unwrap();
    let (one, two, three) = tokio::join!(start(1), start(2), start(3));
    let mut expected = Vec::new();
    for key in 0..100 {
        expected.push((one.committed("alice", key).await, key));
    }
    let duplicate = |key: usize| SubmitOutcome::Committed { id: expected[key].0, duplicate: true };
    for node in [&one, &two, &three] {
        let groups = node.member.shards.in_order();
        super::checkpointer::checkpoint_all(&groups).await.unwrap();
        let in_memory: usize = groups.iter().map(|group| group.store.stats().dedup_keys_in_memory).sum();
        assert!(in_memory <= 2 * 16, "{in_memory} keys in memory");
    }
    for key in [0, 50, 99] {
        assert_eq!(two.send("alice", key).await, duplicate(key.into()));
        assert_eq!(two.send("carol", key).await, SubmitOutcome::KeyConflict);
    }
    one.die().await;
    for key in [1, 51, 98] {
        assert_eq!(two.send("alice", key).await, duplicate(key.into()));
    }
    two.die().await;
    let one = start(1).await;
    for key in [2, 52, 97] {
        assert_eq!(three.send("alice", key).await, duplicate(key.into()));
    }
    for node in [&one, &three] {
        assert_eq!(node.read("alice").await, expected);
    }
    for node in [one, three] {
        node.die().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_member_restarts_from_checkpoint_and_log() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let founding = founding(&[NodeId(1)]);
    let mut expected = Vec::new();
    for round in 0..3 {
        let node = start(&net, dir.path(), 1, &founding).await;
        assert_eq!(node.read("alice").await, expected);
        for key in 0..10 {
            let key = round * 10 + key;
            expected.push((node.committed("alice", key).await, key));
            if key % 10 == 5 {
                super::checkpointer::checkpoint_all(&node.member.shards.in_order()).await.unwrap();
            }
        }
        assert_eq!(node.send("alice", 0).await, SubmitOutcome::Committed { id: expected[0].0, duplicate: true });
        node.die().await;
    }
}

/// Copies the files that make the warm store.
fn copy_store(from: &Path, to: &Path) {
    for name in ["inboxes.db", "inboxes.db-wal"] {
        let _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
    let _ = std::fs::remove_file(to.join("inboxes.db-shm"));
}

/// A core that is asked for a snapshot before there is a checkpoint must not end for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_before_the_first_checkpoint_is_put_off() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let node = start(&net, dir.path(), 1, &founding(&[NodeId(1)])).await;
    for group in node.member.shards.in_order() {
        group.raft.trigger().snapshot().await.unwrap();
    }
    node.member.meta.trigger().snapshot().await.unwrap();
    node.committed("alice", 1).await;
    node.committed("bob", 2).await;
    node.die().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_the_log_does_not_reach_back_to_is_refused() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let (folder, copy) = (dir.path().join("n1"), tempfile::tempdir().unwrap());
    let founding = founding(&[NodeId(1)]);
    let node = start(&net, dir.path(), 1, &founding).await;
    node.committed("alice", 1).await;
    node.die().await;
    copy_store(&folder, copy.path());
    let node = start(&net, dir.path(), 1, &founding).await;
    node.committed("alice", 2).await;
    let groups = node.member.shards.in_order();
    // The node's own checkpointer may be at work on one of them, which puts ours off.
    while groups.iter().any(|group| group.store.checkpointed() != group.store.applied()) {
        super::checkpointer::checkpoint_all(&groups).await.unwrap();
        tokio::task::yield_now().await;
    }
    for group in &groups {
        let upto = group.store.checkpointed().index;
        super::purge::purge(&group.raft, &group.log, &group.outgoing, upto).await;
        let purged = group.raft.wait(Some(Duration::from_secs(10)));
        purged.metrics(|now| now.purged.is_some_and(|id| id.index == upto), "the purge").await.unwrap();
    }
    drop(groups);
    node.die().await;
    copy_store(copy.path(), &folder);
    let refused = try_start(&net, dir.path(), 1, &founding).await.err().expect("it must not start").to_string();
    assert!(refused.contains("lost on this disk"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founded_cluster_refuses_another_list_of_members() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let alone = founding(&[NodeId(1)]);
    start(&net, dir.path(), 1, &alone).await.die().await;
    let mut three = founding(&[NodeId(1), NodeId(2), NodeId(3)]);
    three.nodes.insert(NodeId(1), alone.nodes[&NodeId(1)].clone());
    let refused = try_start(&net, dir.path(), 1, &three).await.err().expect("it must not start").to_string();
    assert!(refused.contains("can't change the members"), "{refused}");
    let mut rekeyed = alone.clone();
    rekeyed.nodes.get_mut(&NodeId(1)).unwrap().key = Identity::ephemeral().peer_id();
    assert!(try_start(&net, dir.path(), 1, &rekeyed).await.is_err());
    start(&net, dir.path(), 1, &alone).await.die().await;
}
