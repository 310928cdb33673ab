//! Row 9, DISK-FULL: the disk of the node that leads most fills up, once to its reserve and once to the last byte; then every disk.
//! With room elsewhere nobody notices; without, messages are refused with the code for it, and reads go on. No node ends, and
//! all recover by themselves once there is room.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use iris_client::{MessageKey, UserId};
use iris_protocol::frame::{Code, ServerFrame};
use rand::Rng;

use crate::cluster::{Cluster, Options};
use crate::faults::bed::Bed;
use crate::faults::disks::{Disks, NODES, disk_says, leads_nothing, must_live, with_each_engine};
use crate::faults::load::{Load, Size};
use crate::faults::outcome::Tally;
use crate::faults::{Outcome, Rounds, Row, RowRun};
use crate::oracle::{Fate, Logs, Oracle, Record};
use crate::raw::RawConnection;
use crate::verify::read_inbox;
use crate::wait::{wait_for, within};
use crate::workload::users;

/// The row.
pub const ROW: Row = Row {
    name: "DISK-FULL",
    number: 9,
    about: "a leader's disk fills up, then all disks",
    rounds: Rounds { short: 1, long: 10 },
    run,
};

const MIB: u64 = 1024 * 1024;

/// Small, so that a test fills a disk quickly; large enough for checkpoints of what is written meanwhile.
const RESERVE: u64 = 32 * MIB;

/// Room that is less than the reserve, and more than the part of it that entries don't get.
const LOW: u64 = 24 * MIB;

/// Longest a read through any node may take while all disks are full.
const READ_DEADLINE: Duration = Duration::from_secs(60);

/// Longest until a message is refused for want of room.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(60);

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(with_each_engine(run, play))
}

async fn play(run: &RowRun<'_>, options: Options) -> anyhow::Result<Tally> {
    let mut rng = run.rng("rooms");
    let disks = Disks::mount(run.dir)?;
    let options = options.with("store", "reserve_bytes", RESERVE).with("store", "log_bytes_max", 16 * MIB);
    let mut bed = Bed::start_with(run, options).await?;
    let load = Load::start(run, &bed.cluster, Size::default()).await?;
    let everybody = users("user-", Size::default().users)?;
    for round in 1..=run.rounds {
        for room in [LOW, 0] {
            load.more(rng.random_range(100..300)).await?;
            let victim = bed.cluster.leading_most().await?;
            disks.of(victim).set_room(Some(room));
            disk_says(&bed, victim, "its disk is full", |disk| disk.full).await?;
            leads_nothing(&bed, victim).await?;
            load.more(rng.random_range(100..300)).await?;
            must_live(&mut bed, victim)?;
            // It starts there, too.
            bed.cluster.kill9(victim)?;
            bed.cluster.start_node(victim)?;
            disk_says(&bed, victim, "its disk is full", |disk| disk.full).await?;
            load.more(rng.random_range(50..100)).await?;
            must_live(&mut bed, victim)?;
            disks.of(victim).set_room(None);
            disk_says(&bed, victim, "its disk has room", |disk| !disk.full).await?;
            bed.cluster.wait_ready().await?;
            run.say(&format!("round {round}: node {} had {} MiB left, and led nothing", victim + 1, room / MIB));
        }
        disks.all().for_each(|disk| disk.set_room(Some(LOW)));
        for node in 0..NODES {
            disk_says(&bed, node, "its disk is full", |disk| disk.full).await?;
        }
        refused(&bed.cluster, round).await?;
        for user in &everybody {
            for node in 0..NODES {
                reads_all(&bed.cluster, &load.oracle, user, node).await?;
            }
        }
        for node in 0..NODES {
            must_live(&mut bed, node)?;
        }
        disks.all().for_each(|disk| disk.set_room(None));
        load.more(200).await?;
        run.say(&format!("round {round}: all disks were full: refused, read all the same, and went on"));
    }
    let mut tally = load.finish(&mut bed).await?;
    tally.rounds = run.rounds;
    Ok(tally)
}

/// Reads a user's inbox through one node: everything that was acked before is in it.
async fn reads_all(cluster: &Cluster, oracle: &Oracle, user: &UserId, node: usize) -> anyhow::Result<()> {
    let is_due = |record: &Record| record.intent.recipient == *user && matches!(record.fate, Fate::Acked(_));
    let due: Vec<Record> = oracle.records().into_iter().filter(is_due).collect();
    let read = within("a read while all disks are full", READ_DEADLINE, read_inbox(cluster, user, node)).await??;
    let verdict = Oracle::from_records(due).judge(&Logs::from([(user.clone(), read)]));
    ensure!(verdict.lost == 0, "with all disks full, node {} shows too little: {:?}", node + 1, verdict.problems);
    Ok(())
}

/// Sends until a message is refused with the code for a full disk. What was taken before that is nobody's business: its sender
/// and recipient are in no other inbox.
async fn refused(cluster: &Cluster, round: u32) -> anyhow::Result<()> {
    let user = UserId::new("room-asker")?;
    let mut asked = 0;
    wait_for("a message to be refused for want of room", REFUSAL_DEADLINE, async || {
        asked += 1;
        match ask(cluster, &user, round, asked).await {
            Ok(ServerFrame::Refused { code: Code::DiskFull, retry_after_ms, .. }) if retry_after_ms > 0 => Ok(()),
            Ok(other) => Err(format!("{other:?}").into()),
            Err(error) => Err(format!("{error:#}").into()),
        }
    })
    .await
}

/// What a node answers to a message. On a new connection each time: it has no refused messages that would have to go first.
async fn ask(cluster: &Cluster, user: &UserId, round: u32, asked: u64) -> anyhow::Result<ServerFrame> {
    let token = cluster.token(user).await?;
    let mut connection = RawConnection::login(&cluster.addresses()[0], cluster.ca_pem()?, &token, "raw").await?;
    let mut key = [0; 16];
    key[..4].copy_from_slice(&round.to_be_bytes());
    key[4..12].copy_from_slice(&asked.to_be_bytes());
    connection.send(1, MessageKey(key), user, Bytes::from_static(b"is there room?")).await?;
    connection.read().await?.context("it closed the connection")
}
