//! Who waits for new entries of which inbox, on this node. A reader registers before it looks, so that an entry applied
//! between its look and its wait wakes it. Soft state: lost with the process, rebuilt by the next read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iris_protocol::UserId;
use tokio::sync::Notify;

/// The waiting readers of one shard.
#[derive(Default)]
pub struct Waiters {
    by_user: Mutex<HashMap<UserId, Waiting>>,
}

/// The readers of one inbox.
#[derive(Default)]
struct Waiting {
    notify: Arc<Notify>,
    interests: usize,
}

impl Waiters {
    /// Registers interest in a user's inbox.
    pub fn register(self: &Arc<Self>, user: &UserId) -> Interest {
        let mut by_user = self.by_user();
        let waiting = by_user.entry(user.clone()).or_default();
        waiting.interests += 1;
        Interest { waiters: self.clone(), user: user.clone(), notify: waiting.notify.clone() }
    }

    /// Wakes whoever waits for one of these users.
    pub fn wake(&self, users: &[UserId]) {
        let by_user = self.by_user();
        if by_user.is_empty() {
            return;
        }
        for waiting in users.iter().filter_map(|user| by_user.get(user)) {
            waiting.notify.notify_waiters();
        }
    }

    /// Wakes everybody, so that they see that this node no longer leads.
    pub fn wake_all(&self) {
        self.by_user().values().for_each(|waiting| waiting.notify.notify_waiters());
    }

    fn by_user(&self) -> MutexGuard<'_, HashMap<UserId, Waiting>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut by_user = self.waiters.by_user();
        if let Some(waiting) = by_user.get_mut(&self.user) {
            waiting.interests -= 1;
            if waiting.interests == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn only_the_users_readers_are_woken_and_nothing_is_left_behind() {
        let waiters = Arc::new(Waiters::default());
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let interests = [&alice, &alice, &bob].map(|user| waiters.register(user));
        let mut news = interests.each_ref().map(|interest| Box::pin(interest.notified()));
        for news in &mut news {
            news.as_mut().enable();
        }
        waiters.wake(std::slice::from_ref(&alice));
        assert_eq!(news.each_mut().map(|news| news.as_mut().now_or_never().is_some()), [true, true, false]);
        waiters.wake_all();
        assert!(news[2].as_mut().now_or_never().is_some());
        drop(news);
        drop(interests);
        assert!(waiters.by_user().is_empty());
    }
}
