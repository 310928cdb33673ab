//! The task that looks at the disk, and says once when it is otherwise than before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use iris_store::RaftLog;
use iris_store::room::free_bytes;
use tokio::time::Instant;

use super::ballast::Ballast;
use super::pace::{Pace, Writes};
use super::room::RoomLevel;
use super::{Disk, DiskState, Room};
use crate::supervise::Supervisor;

/// Between looks: what a fast disk takes meanwhile fits in the reserve.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const MIB: u64 = 1024 * 1024;

/// Before anything is opened: on a disk without room, what was set aside is what a node starts with.
pub fn make_room(data: &Path, reserve_bytes: u64) {
    if free_bytes(data).is_some_and(|free| RoomLevel::new(reserve_bytes).observe(free) == Room::Least) {
        Ballast::new(data, reserve_bytes).give_back();
    }
}

/// Looks at the disk that the folders lie on, the data folder first, a first time before it returns. On several disks, the one
/// with the least room counts.
pub fn spawn(supervisor: &Supervisor, folders: Vec<PathBuf>, log: RaftLog, reserve_bytes: u64) -> Disk {
    let mut look = Look {
        ballast: folders.first().map(|data| Ballast::new(data, reserve_bytes)),
        folders,
        log,
        reserve_bytes,
        level: RoomLevel::new(reserve_bytes),
        pace: Pace::default(),
    };
    let (publish, disk) = Disk::told(DiskState::default());
    publish.send_replace(look.look());
    say_what_changed(DiskState::default(), disk.state());
    supervisor.spawn_critical("disk watch", move |stop| async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // A disk that hangs must not hold up what runs here.
            let now;
            (look, now) = crate::blocking::run(move || {
                let now = look.look();
                (look, now)
            })
            .await?;
            let before = publish.send_replace(now);
            say_what_changed(before, now);
        }
    });
    disk
}

struct Look {
    folders: Vec<PathBuf>,
    log: RaftLog,
    reserve_bytes: u64,
    level: RoomLevel,
    pace: Pace,
    ballast: Option<Ballast>,
}

impl Look {
    fn look(&mut self) -> DiskState {
        // A system that doesn't say how much there is can't be helped: then a full disk shows when a write fails.
        let free_bytes = self.folders.iter().filter_map(|folder| free_bytes(folder)).min().unwrap_or(u64::MAX);
        let stats = self.log.stats();
        let room = self.level.observe(free_bytes);
        if let Some(ballast) = &mut self.ballast {
            match room {
                // Also when the log finds no room though the system says that there is some.
                _ if stats.waits_for_room => ballast.give_back(),
                // With so much to spare that taking it changes nothing.
                Room::Enough if free_bytes >= self.reserve_bytes + self.reserve_bytes / 4 => ballast.take(),
                Room::Enough | Room::Low => {}
                Room::Least => ballast.give_back(),
            }
        }
        let writes = Writes { count: stats.fsyncs, us_sum: stats.fsync_us_sum, under_way_us: stats.writing_us };
        DiskState {
            room,
            waits_for_room: stats.waits_for_room,
            slow: self.pace.observe(Instant::now(), writes),
            free_bytes,
            reserve_bytes: self.reserve_bytes,
            write_us: self.pace.write_us(),
        }
    }
}

fn say_what_changed(before: DiskState, now: DiskState) {
    if before.takes_messages() != now.takes_messages() {
        let (free_mib, reserve_mib) = (now.free_bytes / MIB, now.reserve_bytes / MIB);
        match now.takes_messages() {
            false => tracing::warn!(free_mib, reserve_mib, "the disk is full: no new messages are taken here"),
            true => tracing::info!(free_mib, "there is room on the disk again"),
        }
    }
    if before.room != Room::Least && now.room == Room::Least {
        tracing::warn!(free_bytes = now.free_bytes, "what is left of the disk is kept for votes and checkpoints");
    }
    if before.slow != now.slow {
        let write_ms = now.write_us / 1_000;
        match now.slow {
            true => tracing::warn!(write_ms, "the disk is slow: what this node leads goes elsewhere if it can"),
            false => tracing::info!("the disk keeps up again"),
        }
    }
}
