//! Who waits for new entries of which inbox, on this node. A reader registers before it looks, so that an entry applied
//! between its look and its wait wakes it. Soft state: lost with the process, rebuilt by the next read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use iris_protocol::UserId;
use tokio::sync::Notify;

/// The waiting readers of one shard.
#[derive(Default)]
pub struct Waiters {
    by_user: Mutex<HashMap<UserId, Arc<Notify>>>,
}

impl Waiters {
    /// Registers interest in a user's inbox.
    pub fn register(self: &Arc<Self>, user: &UserId) -> Interest {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = by_user.entry(user.clone()).or_default().clone();
        Interest { waiters: self.clone(), user: user.clone(), notify }
    }

    /// Wakes whoever waits for one of these users.
    pub fn wake(&self, users: &[UserId]) {
        let by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if by_user.is_empty() {
            return;
        }
        for user in users {
            if let Some(notify) = by_user.get(user) {
                notify.notify_waiters();
            }
        }
    }

    /// Wakes everybody, so that they see that this node no longer leads.
    pub fn wake_all(&self) {
        for notify in self.by_user.lock().unwrap_or_else(PoisonError::into_inner).values() {
            notify.notify_waiters();
        }
    }
}

/// Interest in one inbox; dropping it ends it.
pub struct Interest {
    waiters: Arc<Waiters>,
    user: UserId,
    notify: Arc<Notify>,
}

impl Interest {
    /// The next wake-up after the returned future was enabled (see [`tokio::sync::Notify::notified`]).
    pub fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut by_user = self.waiters.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        // One reference in the map, one here: nobody else waits. Others can't appear meanwhile, as they take the lock.
        if Arc::strong_count(&self.notify) <= 2 {
            by_user.remove(&self.user);
        }
    }
}
