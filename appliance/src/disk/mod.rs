//! This node's disk, as the node itself notices it: whether there is room left, and whether writes keep up. Owns looking and
//! judging. What follows is others' business: a leader refuses messages and gives its leaderships away, a follower takes no
//! entries that would eat the last room, health says what is the matter (docs/decisions/0020).

mod ballast;
mod pace;
mod room;
mod watch;

use iris_protocol::admin::DiskStatus;
use tokio::sync::watch as channel;

pub use room::Room;
pub use watch::{make_room, spawn};

/// How the disk was when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskState {
    /// How much room there is.
    pub room: Room,
    /// The log's writer waits for room at this moment.
    pub waits_for_room: bool,
    /// Writes take too long, and have for a while.
    pub slow: bool,
    /// Bytes free.
    pub free_bytes: u64,
    /// Bytes that are to stay free.
    pub reserve_bytes: u64,
    /// Microseconds that durable writes of the log took lately.
    pub write_us: u64,
}

impl DiskState {
    /// Whether messages may be proposed here. Everything else is small, or makes room.
    #[must_use]
    pub fn takes_messages(&self) -> bool {
        self.room == Room::Enough && !self.waits_for_room
    }

    /// Whether a leader's entries may be written here. The last of the reserve is for votes, checkpoints and what makes room.
    #[must_use]
    pub fn takes_entries(&self) -> bool {
        self.room != Room::Least && !self.waits_for_room
    }

    /// Whether this node should lead anything, if another one can.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        self.takes_messages() && !self.slow
    }

    /// For the operator.
    #[must_use]
    pub fn status(&self) -> DiskStatus {
        DiskStatus {
            free_bytes: self.free_bytes,
            reserve_bytes: self.reserve_bytes,
            full: !self.takes_messages(),
            slow: self.slow,
            write_us: self.write_us,
        }
    }
}

/// The disk's state, kept up to date. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Disk(pub(crate) channel::Receiver<DiskState>);

impl Disk {
    /// A disk that somebody tells of.
    #[must_use]
    pub fn told(state: DiskState) -> (channel::Sender<DiskState>, Self) {
        let (sender, receiver) = channel::channel(state);
        (sender, Self(receiver))
    }

    /// How it is now.
    #[must_use]
    pub fn state(&self) -> DiskState {
        *self.0.borrow()
    }

    /// Waits until whether this node should lead is otherwise than now; for ever once nobody looks any more.
    pub async fn turned(&mut self) {
        let was = self.state().may_lead();
        if self.0.wait_for(|now| now.may_lead() != was).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One that is always fine: for where nobody looks.
impl Default for Disk {
    fn default() -> Self {
        Self::told(DiskState { free_bytes: u64::MAX, ..DiskState::default() }).1
    }
}
