//! The one path of damage: which errors mean that the disk does not hold what was written to it, and the watch that the first of
//! them ends up in, wherever in a node it was met. An error that says something else (a full disk, another version, a folder in
//! use) is none of that: those data are well.

use std::error::Error;
use std::io;
use std::sync::Arc;

use iris_store::{LogError, RaftLog, StoreError, WarmStore};
use tokio::sync::watch;

use super::watched::WatchedWarm;

/// Damage that is neither a log's nor a store's own: parts that are whole and contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub String);

/// What is damaged, as its finder says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The error's own sentence.
    pub what: String,
}

impl Damage {
    /// What this error says of the disk; `None` if it says that the data are well, or nothing of them.
    #[must_use]
    pub fn in_error(error: &anyhow::Error) -> Option<Self> {
        error.chain().find_map(Self::in_one)
    }

    fn in_one(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // An I/O error hides what it is made of from the chain.
            let mut next: Option<&(dyn Error + 'static)> = Some(inner);
            return std::iter::from_fn(|| {
                let now = next?;
                next = now.source();
                Some(now)
            })
            .find_map(Self::in_one);
        }
        let is_damage = matches!(error.downcast_ref(), Some(StoreError::Corrupt { .. }))
            || matches!(error.downcast_ref(), Some(LogError::Corrupt { .. }))
            || error.is::<Damaged>();
        is_damage.then(|| Self { what: error.to_string() })
    }
}

/// Told of damage by whoever meets it; the first counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DamageWatch(Arc<watch::Sender<Option<Damage>>>);

impl Default for DamageWatch {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl DamageWatch {
    /// Notes what this error says of the disk, if it does.
    pub fn note(&self, error: &(dyn Error + 'static)) {
        if let Some(damage) = Damage::in_one(error) {
            self.0.send_if_modified(|now| {
                let first = now.is_none();
                now.get_or_insert(damage);
                first
            });
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn so_far(&self) -> Option<Damage> {
        self.0.borrow().clone()
    }

    /// Resolves when something was found.
    pub async fn found(&self) -> Damage {
        let mut seen = self.0.subscribe();
        let found = seen.wait_for(Option::is_some).await;
        match found.ok().and_then(|found| found.clone()) {
            Some(damage) => damage,
            None => std::future::pending().await,
        }
    }

    /// The same store; what it finds is noted.
    #[must_use]
    pub fn over(&self, warm: Arc<dyn WarmStore>) -> Arc<dyn WarmStore> {
        Arc::new(WatchedWarm::new(warm, self.clone()))
    }

    /// Notes what a log finds, for as long as it is polled.
    pub async fn follow(&self, log: &RaftLog) {
        let error = log.damaged().await;
        self.note(&error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use futures::FutureExt;

    fn corrupt() -> StoreError {
        StoreError::Corrupt { path: "/d/meta".into(), what: "the file".to_owned(), why: "its checksum".to_owned() }
    }

    #[track_caller]
    fn check(error: anyhow::Error, expect: Option<&str>) {
        let found = Damage::in_error(&error).map(|damage| damage.what);
        match expect {
            None => assert_eq!(found, None),
            Some(part) => assert!(found.as_ref().is_some_and(|what| what.contains(part)), "{found:?}"),
        }
    }

    #[test]
    fn damage_is_told_from_everything_else_however_deep_it_lies() {
        check(corrupt().into(), Some("/d/meta"));
        check(io::Error::other(io::Error::other(corrupt())).into(), Some("/d/meta"));
        check(Err::<(), _>(corrupt()).context("starting").unwrap_err(), Some("its checksum"));
        let log = LogError::Corrupt { path: "/d/log".into(), why: "a record".into() };
        check(io::Error::other(log).into(), Some("/d/log"));
        check(Damaged("a gap".to_owned()).into(), Some("a gap"));
        let version = StoreError::Version { path: "/d/meta".into(), found: 9, known: 1 };
        check(version.into(), None);
        check(StoreError::Poisoned { path: "/d".into() }.into(), None);
        check(LogError::Failed { why: "fsync".into() }.into(), None);
        check(io::Error::from(io::ErrorKind::StorageFull).into(), None);
        check(anyhow::anyhow!("something else"), None);
    }

    #[tokio::test]
    async fn the_first_damage_is_kept() {
        let watch = DamageWatch::default();
        watch.note(&StoreError::Poisoned { path: "/d".into() });
        assert!(watch.found().now_or_never().is_none() && watch.so_far().is_none());
        watch.note(&Damaged("one".to_owned()));
        watch.note(&Damaged("two".to_owned()));
        assert_eq!(watch.found().await.what, "one");
    }
}
