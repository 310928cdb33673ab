//! What a shard's leader does for edges, its own and others': append, read a page, read a cursor. Refuses when it does not
//! lead; never answers from a state that might be behind what it promised.

use std::time::Duration;

use iris_protocol::hlc::{ENTRY_ID_MAX, LOGICAL_BITS};
use iris_protocol::{DeviceId, EntryId, UserId};
use iris_store::{Item, Outcome, PageLimits};
use openraft::ReadPolicy;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::AppendRequest;
use super::group::ShardGroup;
use super::refused::Refused;
use crate::routing::{InboxPage, PageRequest};

/// Bytes of bodies in one page: what a subscriber may make an edge hold at once.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;

/// Entries in one page.
pub const PAGE_ENTRIES_MAX: usize = 1_000;

/// Longest a read may wait for news: then it answers an empty page, so that forgotten readers go away by themselves.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(30);

/// Longest a confirmation of leadership may take.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

impl ShardGroup {
    /// Appends items, all in one entry, in order; returns when they are committed and applied.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn append(&self, items: Vec<Item>) -> Result<Vec<Outcome>, Refused> {
        let (answer, answered) = oneshot::channel();
        self.appends.try_send(AppendRequest { items, since: Instant::now(), answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Refused::NotLeader { leader: None },
        })?;
        // The batcher drops what waited too long, and everything when it stops.
        answered.await.unwrap_or(Err(Refused::NotLeader { leader: None }))
    }

    /// Reads a page of an inbox, waiting for news if asked to.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn read(&self, user: &UserId, request: PageRequest) -> Result<InboxPage, Refused> {
        let limits =
            PageLimits { entries_max: request.entries_max.clamp(1, PAGE_ENTRIES_MAX), bytes_max: PAGE_BYTES_MAX };
        let give_up = Instant::now() + request.wait.min(READ_WAIT_MAX);
        if let Some(device) = &request.device {
            self.refresh(user, device).await?;
        }
        let interest = self.waiters.register(user);
        // Moves on with every look, so that a long wait ends with a look at memory, not at the disk.
        let mut after = request.after;
        loop {
            let news = interest.notified();
            tokio::pin!(news);
            // Enabled before looking: an entry applied after the look wakes it.
            news.as_mut().enable();
            self.check_ready()?;
            if request.confirm {
                self.confirm_leadership().await?;
            }
            let page = self.look(user, after, limits).await?;
            let live = request.confirm && !page.more;
            if !page.entries.is_empty() || live || Instant::now() >= give_up {
                return Ok(InboxPage { entries: page.entries, scanned_to: page.scanned_to.max(after), live });
            }
            after = after.max(page.scanned_to);
            // Also woken when this node stops leading.
            let _ = tokio::time::timeout_at(give_up, news).await;
        }
    }

    async fn look(&self, user: &UserId, after: EntryId, limits: PageLimits) -> Result<iris_store::Page, Refused> {
        if let Some(page) = self.store.read_hot(user, after, limits) {
            return Ok(page);
        }
        let (store, user) = (self.store.clone(), user.clone());
        let page = crate::blocking::run(move || store.read(&user, after, limits))
            .await
            .map_err(|error| Refused::Failed(error.to_string()))?;
        // Logged here, where the disk is: the asking edge only tries again.
        page.map_err(|error| {
            tracing::error!(shard = %self.shard, %error, "an inbox can't be read");
            Refused::Failed(error.to_string())
        })
    }

    /// A device's stored cursor. From then on the device is known, and entries wait for it (A8).
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn stored_cursor(&self, user: &UserId, device: &DeviceId) -> Result<EntryId, Refused> {
        self.check_ready()?;
        if !self.store.was_seen_since(user, device, self.seen_enough()) {
            match self.say_seen(user, device).await {
                // Where the move found the cursor is where it stands, by way of the log.
                Ok(cursor) => return Ok(cursor),
                // A full shard takes the device in another time; its cursor is known all the same.
                Err(Refused::Overloaded | Refused::DiskFull) => {}
                Err(refused) => return Err(refused),
            }
        }
        self.confirm_leadership().await?;
        let cursor = self.store.cursor(user, device);
        cursor.map_err(|error| Refused::Failed(error.to_string()))
    }

    /// Writes a known device's sign of life down, if the last one is older than a thirtieth of the time it may be silent.
    async fn refresh(&self, user: &UserId, device: &DeviceId) -> Result<(), Refused> {
        self.check_ready()?;
        if !self.store.knows(user, device) || self.store.was_seen_since(user, device, self.seen_enough()) {
            return Ok(());
        }
        // A read must not fail because the shard is full.
        let _ = self.say_seen(user, device).await;
        Ok(())
    }

    fn seen_enough(&self) -> EntryId {
        let refresh_ms = u64::try_from(self.refresh_after.as_millis()).unwrap_or(u64::MAX);
        EntryId(self.clock.unix_ms().saturating_sub(refresh_ms).min(ENTRY_ID_MAX.unix_ms()) << LOGICAL_BITS)
    }

    /// Appends that a device is there; where its cursor stands.
    async fn say_seen(&self, user: &UserId, device: &DeviceId) -> Result<EntryId, Refused> {
        let (user, device) = (user.clone(), device.clone());
        let outcomes =
            self.append(vec![Item::Cursor { user, device, cursor: EntryId::ZERO, seen: EntryId::ZERO }]).await?;
        match outcomes.first() {
            Some(Outcome::CursorMoved(cursor)) => Ok(*cursor),
            other => Err(Refused::Failed(format!("a cursor's move was answered with {other:?}"))),
        }
    }

    fn check_ready(&self) -> Result<(), Refused> {
        let now = *self.leadership.borrow();
        if now.ready {
            return Ok(());
        }
        Err(Refused::NotLeader { leader: now.leader.filter(|leader| *leader != *self.raft.node_id()) })
    }

    /// Everything committed anywhere before this call is applied here when it returns. Asks a quorum rather than trusting the
    /// lease, because clocks of paused machines lie; it happens once per subscription, not per page.
    async fn confirm_leadership(&self) -> Result<(), Refused> {
        match tokio::time::timeout(CONFIRM_DEADLINE, self.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Refused::NotLeader { leader: None }),
        }
    }
}
