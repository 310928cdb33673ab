//! How often somebody may do something (B4): a token bucket each, for a user's messages over all of its sessions at this node,
//! for an address's attempts to join. Time is passed in. Memory is bounded: see [`USERS_MAX`].

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iris_protocol::UserId;
use tokio::time::Instant;

/// Locks the users are spread over, so that sessions rarely wait for each other.
const SHARDS: usize = 16;

/// Users remembered: some 10 MiB. Beyond it those that are at rest are forgotten, then all of one shard: a user then
/// begins anew with a full bucket, which errs on the side of letting messages through.
const USERS_MAX: usize = 65_536;

/// Token buckets, one per user that sent something lately.
pub struct RateLimits<K = UserId> {
    /// Time one message takes at the allowed rate; zero: no limit.
    per_message: Duration,
    /// How far ahead of the allowed rate a user may be: the burst, less the message that asks.
    ahead_max: Duration,
    hasher: RandomState,
    /// For each user, when it will be at rest: all its messages so far, at the allowed rate, are over then.
    at_rest: Vec<Mutex<HashMap<K, Instant>>>,
}

impl<K: Hash + Eq + Clone> RateLimits<K> {
    /// Limits of `messages_per_s` with bursts of `messages_burst` messages. A rate of 0 means no limit.
    #[must_use]
    pub fn new(messages_per_s: u32, messages_burst: u32) -> Self {
        Self::every(Duration::from_secs(1).checked_div(messages_per_s).unwrap_or_default(), messages_burst)
    }

    /// One every so often, with bursts of `burst`. Zero means no limit.
    #[must_use]
    pub fn every(per_message: Duration, burst: u32) -> Self {
        Self {
            per_message,
            ahead_max: per_message.saturating_mul(burst.saturating_sub(1)),
            hasher: RandomState::new(),
            at_rest: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Takes one message's share.
    ///
    /// # Errors
    /// The bucket is empty: the milliseconds after which there is a share again, at least 1.
    pub fn take(&self, user: &K, now: Instant) -> Result<(), u32> {
        if self.per_message.is_zero() {
            return Ok(());
        }
        let mut users = self.shard(user);
        if let Some(at_rest) = users.get_mut(user) {
            let begin = (*at_rest).max(now);
            let too_far = (begin - now).saturating_sub(self.ahead_max);
            if !too_far.is_zero() {
                let ms = too_far.as_micros().div_ceil(1_000);
                return Err(u32::try_from(ms).unwrap_or(u32::MAX));
            }
            *at_rest = begin + self.per_message;
            return Ok(());
        }
        if users.len() >= USERS_MAX / SHARDS {
            users.retain(|_, at_rest| *at_rest > now);
            if users.len() >= USERS_MAX / SHARDS {
                users.clear();
            }
        }
        users.insert(user.clone(), now + self.per_message);
        Ok(())
    }

    /// Forgets what was taken: the next one begins anew with a full bucket.
    pub fn forgive(&self, user: &K) {
        self.shard(user).remove(user);
    }

    fn shard(&self, user: &K) -> MutexGuard<'_, HashMap<K, Instant>> {
        let shard = self.hasher.hash_one(user) as usize % SHARDS;
        // A poisoned lock only means that another session panicked; the map is whole between its operations.
        self.at_rest[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let limits = RateLimits::new(10, 3);
        let now = Instant::now();
        for _ in 0..3 {
            limits.take(&user("bob"), now).unwrap();
        }
        assert_eq!(limits.take(&user("bob"), now), Err(100));
        assert_eq!(limits.take(&user("alice"), now), Ok(()), "another user's bucket is its own");
        assert_eq!(limits.take(&user("bob"), now + Duration::from_millis(99)), Err(1));
        assert_eq!(limits.take(&user("bob"), now + Duration::from_millis(100)), Ok(()));
        assert_eq!(limits.take(&user("bob"), now + Duration::from_millis(100)), Err(100));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let limits: RateLimits = RateLimits::new(0, 0);
        let now = Instant::now();
        assert!((0..10_000).all(|_| limits.take(&user("bob"), now).is_ok()));
    }

    #[test]
    fn who_is_forgiven_begins_anew() {
        let limits = RateLimits::every(Duration::from_secs(60), 2);
        let now = Instant::now();
        assert_eq!((limits.take(&1, now), limits.take(&1, now)), (Ok(()), Ok(())));
        assert_eq!(limits.take(&1, now), Err(60_000));
        limits.forgive(&1);
        assert_eq!((limits.take(&1, now), limits.take(&1, now)), (Ok(()), Ok(())));
        assert_eq!(limits.take(&1, now), Err(60_000));
    }

    #[test]
    fn the_users_remembered_are_bounded() {
        let limits = RateLimits::new(1, 1);
        let now = Instant::now();
        for at in 0..USERS_MAX + 10_000 {
            limits.take(&user(&format!("user-{at}")), now).unwrap();
        }
        let kept: usize = limits.at_rest.iter().map(|users| users.lock().unwrap().len()).sum();
        assert!(kept <= USERS_MAX, "{kept} users are remembered");
    }
}
