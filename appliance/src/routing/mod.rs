//! The road from an edge session to a shard's leader and back: user -> vnode -> shard -> leader. Sessions see only [`Router`];
//! that the leader may be another node, or change in the middle, stays in here.

use std::time::Duration;

use bytes::Bytes;
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};
use iris_store::Entry;
use tokio::sync::mpsc;

/// One edge session of this node; the unit of order (A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What a session wants done, in the order it wants it done.
#[derive(Debug)]
pub struct Submission {
    /// Who asks.
    pub session: SessionId,
    /// The session's own number for it, given back with the outcome.
    pub ticket: u64,
    /// How many times this session has begun anew after an outcome that was not final: 0 at first, and at least one more than the
    /// epoch of any submission whose `Unavailable`, `DiskFull`, `Overloaded` or `Behind` the session has seen. What the session
    /// submitted before it saw one is recognised by its lower epoch, and ends as `Behind` instead of overtaking (A6).
    pub epoch: u64,
    /// What.
    pub work: Work,
    /// Where the outcome goes. Its capacity covers all the session may have on its way, so that a send never waits.
    pub replies: mpsc::Sender<Reply>,
}

/// What can be submitted.
#[derive(Debug, Clone)]
pub enum Work {
    /// Append to the recipient's inbox log.
    Message {
        /// From whom, as the token said.
        sender: UserId,
        /// Idempotency key.
        key: MessageKey,
        /// Whose inbox.
        recipient: UserId,
        /// Open tag.
        kind: u16,
        /// Opaque bytes.
        body: Bytes,
    },
    /// Move a device's cursor.
    Cursor {
        /// Whose inbox.
        user: UserId,
        /// Which device.
        device: DeviceId,
        /// How far.
        cursor: EntryId,
    },
}

/// The outcome of one submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The session's number for it.
    pub ticket: u64,
    /// How it ended.
    pub outcome: SubmitOutcome,
}

/// How a submission ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// On a majority of disks, and applied.
    Committed {
        /// The entry's id.
        id: EntryId,
        /// The key was known; nothing was appended.
        duplicate: bool,
    },
    /// The key was used for something else.
    KeyConflict,
    /// The cursor is durable and stands here.
    CursorMoved {
        /// Where.
        cursor: EntryId,
    },
    /// Nobody could commit it in time; whether it was is unknown. Everything later of the same session to the same recipient
    /// ends as [`SubmitOutcome::Behind`].
    Unavailable,
    /// Refused at once, for want of room. Nothing was appended.
    Overloaded,
    /// The disks of those who could take it are full; whether it was committed is unknown. As with
    /// [`SubmitOutcome::Unavailable`], what is later ends as [`SubmitOutcome::Behind`].
    DiskFull,
    /// An earlier one of this session to this recipient was not committed. Nothing is known about this one.
    Behind,
}

/// A page of an inbox.
#[derive(Debug, Clone)]
pub struct InboxPage {
    /// Entries in order, all after the cursor asked for.
    pub entries: Vec<Entry>,
    /// Where the next read begins: nothing of this user lies between the last entry and here.
    pub scanned_to: EntryId,
    /// Everything committed when the leader looked is in this page or before it.
    pub live: bool,
}

/// How a page is wanted.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Read after this.
    pub after: EntryId,
    /// At most so many entries.
    pub entries_max: usize,
    /// Answer an empty page only after this long; zero answers at once.
    pub wait: Duration,
    /// The leader must confirm that it still leads, so that `live` can be believed.
    pub confirm: bool,
    /// Who reads, where that is worth knowing: a known device is seen again with it (A8).
    pub device: Option<DeviceId>,
}

mod leader;
mod uplink;
mod uplink_queue;
pub mod wire;

pub use leader::{Router, RouterParts, Unreachable};
pub use uplink::UplinkTask;
