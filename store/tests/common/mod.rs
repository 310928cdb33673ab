//! What the integration tests of the log share.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use iris_store::{GroupLog, LogEntry, LogError, LogOptions};
use tokio::sync::oneshot;

/// Longer than any disk of a working machine needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn options(dir: &Path) -> LogOptions {
    LogOptions::new(dir)
}

/// Entries whose bytes name their index.
pub(crate) fn entries(indexes: Range<u64>, body: &str) -> Vec<LogEntry> {
    indexes.map(|index| LogEntry { index, bytes: Bytes::from(format!("{body} {index:05}")) }).collect()
}

/// Appends; the receiver gets what the callback was told.
pub(crate) async fn append_later(
    log: &GroupLog,
    entries: Vec<LogEntry>,
) -> Result<oneshot::Receiver<Result<(), LogError>>, LogError> {
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    log.append(entries, done).await.map(|()| receiver)
}

/// Appends and waits for the fsync.
pub(crate) async fn append(log: &GroupLog, entries: Vec<LogEntry>) {
    wait(append_later(log, entries).await.unwrap()).await.unwrap().unwrap();
}

pub(crate) fn all(log: &GroupLog) -> Vec<LogEntry> {
    let mut found: Vec<LogEntry> = Vec::new();
    let mut begin = log.first_index().unwrap_or(0);
    loop {
        let some = log.read(begin..u64::MAX, 1 << 20).unwrap();
        let Some(last) = some.last() else { return found };
        begin = last.index + 1;
        found.extend(some);
    }
}

pub(crate) async fn wait<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Every file and its content.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.insert(path, bytes);
        }
    }
    all
}
