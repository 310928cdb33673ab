//! What members do about their disks: refuse, give away, take no more entries, and go on.

use iris_protocol::DeviceId;
use iris_store::Item;

use super::*;
use crate::disk::Room;

const DEADLINE: Duration = Duration::from_secs(20);

impl Node {
    fn has_room(&self, room: Room) {
        self.disk.send_modify(|disk| disk.room = room);
    }

    /// Ends of the log, by shard.
    fn log_ends(&self) -> Vec<u64> {
        self.member.shards.in_order().iter().map(|group| group.log.last_index().unwrap_or(0)).collect()
    }

    fn leads(&self) -> usize {
        let groups = self.member.shards.in_order();
        groups.iter().filter(|group| group.leadership.borrow().leader == Some(self.member.node)).count()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let give_up = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < give_up, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_full_member_refuses_messages_reads_on_and_takes_cursors() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let node = start(&net, dir.path(), 1, &founding(&[NodeId(1)])).await;
    let first = node.committed("alice", 1).await;
    node.has_room(Room::Low);
    assert_eq!(node.send("alice", 2).await, SubmitOutcome::DiskFull);
    assert_eq!(node.read("alice").await, [(first, 1)]);
    let cursor = Item::Cursor {
        user: UserId::new("alice").unwrap(),
        device: DeviceId::new("phone").unwrap(),
        cursor: first,
        seen: EntryId::ZERO,
    };
    for group in node.member.shards.in_order() {
        group.append(vec![cursor.clone()]).await.unwrap();
    }
    // While the log itself waits for room, nothing would be answered.
    node.disk.send_modify(|disk| disk.waits_for_room = true);
    for group in node.member.shards.in_order() {
        assert_eq!(group.append(vec![cursor.clone()]).await, Err(Refused::DiskFull));
    }
    node.disk.send_modify(|disk| (disk.waits_for_room, disk.room) = (false, Room::Enough));
    let second = node.committed("alice", 2).await;
    assert_eq!(node.read("alice").await, [(first, 1), (second, 2)]);
    node.die().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_member_gives_its_leaderships_away_and_a_fuller_one_takes_no_entries() {
    let (dir, net) = (tempfile::tempdir().unwrap(), Net::default());
    let founding = founding(&[NodeId(1), NodeId(2), NodeId(3)]);
    let (one, two, three) = tokio::join!(
        start(&net, dir.path(), 1, &founding),
        start(&net, dir.path(), 2, &founding),
        start(&net, dir.path(), 3, &founding)
    );
    for key in 0..4 {
        one.committed("alice", key).await;
    }
    let nodes = [&one, &two, &three];
    let stop = CancellationToken::new();
    for node in nodes {
        let leaderships = Leaderships {
            node: node.member.node,
            shards: node.member.shards.clone(),
            meta: node.member.meta_view.clone(),
            clients: node.member.clients.clone(),
            partitions: node.member.partitions.clone(),
            transport: node.member.transport.clone(),
            disk: Disk(node.disk.subscribe()),
            meta_raft: node.member.meta.clone(),
        };
        let stop = stop.clone();
        tokio::spawn(async move { leaderships.balance(&stop).await });
    }
    // Whoever leads, and wherever it goes: in the end only the third has room.
    one.has_room(Room::Low);
    two.disk.send_modify(|disk| disk.slow = true);
    until("the third leads everything", || three.leads() == 2 && one.leads() + two.leads() == 0).await;
    until("the meta group too", || three.member.meta.is_leader()).await;
    for key in 4..8 {
        one.committed("alice", key).await;
    }
    one.has_room(Room::Least);
    let before = one.log_ends();
    for key in 8..16 {
        two.committed("alice", key).await;
    }
    assert_eq!(one.log_ends(), before, "no entry, but heartbeats");
    one.has_room(Room::Enough);
    until("the first catches up", || one.log_ends() == three.log_ends()).await;
    stop.cancel();
    assert_eq!(one.read("alice").await.len(), 16);
    for node in [one, two, three] {
        node.die().await;
    }
}
