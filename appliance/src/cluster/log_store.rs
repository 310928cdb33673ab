//! openraft's log storage over `iris_store`'s log: one of these per group, all of a node sharing one engine, one writer and
//! one fsync. Votes are durable before they are used (`save_vote` awaits its fsync); entries are readable when `append`
//! returns and reported flushed only after the fsync that covers them.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use iris_store::{GroupLog, LogEntry};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::durable::{Durable, DurableMark, durable};
use super::raft_types::{Entry, LogId, TypeConfig, Vote, decode, decode_entry, encode, encode_entry};
use crate::quarantine::Damaged;

pub(super) const VOTE_KEY: &[u8] = b"vote";
pub(super) const PURGED_KEY: &[u8] = b"purged";

/// Bytes of entries read from the log at once, and so sent to a follower at once: little enough that other groups' heartbeats on
/// the same stream don't wait long behind it. One entry may exceed it.
const READ_BYTES_MAX: usize = 512 * 1024;

/// One group's log, as openraft wants it. Cheap to clone; clones share the cached vote and the durable mark.
#[derive(Clone)]
pub struct LogStore {
    log: GroupLog,
    /// The last durable vote; replication reads it often. `None` inside until the first one is saved.
    vote: Arc<Mutex<Option<Vote>>>,
    durable: Arc<DurableMark>,
}

impl LogStore {
    /// Takes over a group's log and reads its vote.
    ///
    /// # Errors
    /// The vote can't be read: the disk failed or was written by another version.
    pub fn open(log: GroupLog) -> io::Result<(Self, Durable)> {
        let vote = match log.get(VOTE_KEY).map_err(io::Error::other)? {
            Some(bytes) => Some(decode("vote", &bytes).map_err(io::Error::other)?),
            None => None,
        };
        // What was read back at start is on disk; what was purged as well.
        let purged = Self::purged(&log)?.map_or(0, |id| id.index);
        let (mark, durable) = durable(log.last_index().unwrap_or(0).max(purged));
        Ok((Self { log, vote: Arc::new(Mutex::new(vote)), durable: Arc::new(mark) }, durable))
    }

    /// Whether what was applied by `applied` can be gone on with: the log must reach back to it. A checkpoint is durable before
    /// the log behind it goes, so a gap means that the checkpoint was damaged, or put back from a copy.
    ///
    /// # Errors
    /// There is a gap: says what to do.
    pub fn check_reaches(&self, applied: Option<u64>, what: &str) -> anyhow::Result<()> {
        let purged = Self::purged(&self.log)?.map(|id| id.index);
        if purged <= applied {
            return Ok(());
        }
        let (has, begins) = (applied.unwrap_or(0), purged.unwrap_or(0));
        Err(Damaged(format!(
            "the store has {what} up to log index {has}, but the log begins only behind {begins}: what lies between is lost on this disk"
        ))
        .into())
    }

    fn purged(log: &GroupLog) -> io::Result<Option<LogId>> {
        match log.get(PURGED_KEY).map_err(io::Error::other)? {
            Some(bytes) => decode("purged log id", &bytes).map(Some).map_err(io::Error::other),
            None => Ok(None),
        }
    }

    /// Entries from `start` (inclusive) to `end` (exclusive), as many as fit the limit, at least one if there is one. The tail comes
    /// from memory; the disk is read off the runtime's threads, which have heartbeats to send.
    async fn read(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let records = match self.log.read_cached(start..end, READ_BYTES_MAX) {
            Some(records) => records,
            None => {
                let log = self.log.clone();
                let read = crate::blocking::run(move || log.read(start..end, READ_BYTES_MAX));
                read.await.map_err(io::Error::other)?.map_err(io::Error::other)?
            }
        };
        records.iter().map(|record| decode_entry(&record.bytes).map_err(io::Error::other)).collect()
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let past_last = self.log.last_index().map_or(0, |last| last + 1);
        let end = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => past_last,
        };
        (start.max(self.log.first_index().unwrap_or(start)), end.min(past_last))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Re-apply after a restart asks for the whole log behind the checkpoint: read it in pieces, not at once.
        let (start, end) = self.bounds(&range);
        let log = self.clone();
        let pieces = futures::stream::unfold(Some(start), move |at| {
            let log = log.clone();
            async move {
                let at = at.filter(|at| *at < end)?;
                match log.read(at, end).await {
                    Ok(entries) if entries.is_empty() => None,
                    Ok(entries) => {
                        let next = at + entries.len() as u64;
                        Some((entries.into_iter().map(Ok).collect(), Some(next)))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        Box::pin(futures::StreamExt::flat_map(pieces, |piece: Vec<_>| futures::stream::iter(piece)))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (mut at, end) = self.bounds(&range);
        let mut entries = Vec::new();
        while at < end {
            let piece = self.read(at, end).await?;
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            entries.extend(piece);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.vote.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = Self::purged(&self.log)?;
        if let Some(purged) = last_purged_log_id {
            // A crash between the mark and the purge: done now. Where a snapshot was installed over a shorter log, that would end
            // before its own beginning, and the group would not start.
            self.log.purge_to(purged.index).await.map_err(io::Error::other)?;
        }
        let last = match self.log.last_index() {
            Some(last) => self.read(last, last + 1).await?.first().map(|entry| entry.log_id),
            None => None,
        };
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.put(VOTE_KEY, encode(vote)).await.map_err(io::Error::other)?;
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<LogEntry> = entries
            .into_iter()
            .map(|entry| LogEntry { index: entry.log_id.index, bytes: encode_entry(&entry) })
            .collect();
        let (durable, last) = (self.durable.clone(), records.last().map_or(0, |record| record.index));
        let flushed = Box::new(move |result: Result<(), iris_store::LogError>| {
            if result.is_ok() {
                durable.flushed(last);
            }
            callback.io_completed(result.map_err(io::Error::other));
        });
        self.log.append(records, flushed).await.map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let last_kept = last_log_id.map(|id| id.index);
        self.log.truncate_after(last_kept).await.map_err(io::Error::other)?;
        self.durable.truncated(last_kept.unwrap_or(0));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // The mark first: a crash in between leaves entries that are marked as purged, not a hole without a mark.
        self.log.put(PURGED_KEY, encode(&log_id)).await.map_err(io::Error::other)?;
        self.log.purge_to(log_id.index).await.map_err(io::Error::other)?;
        self.durable.flushed(log_id.index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use iris_store::{GroupId, LogOptions, RaftLog};
    use openraft::vote::RaftLeaderId;
    use openraft::vote::leader_id_adv::LeaderId;

    use super::*;

    /// Found by the simulation: the node never started again.
    #[tokio::test]
    async fn a_purge_that_a_crash_cut_short_is_done_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let group = RaftLog::open(LogOptions::new(dir.path())).unwrap().group(GroupId(100));
        let entries = |indexes: std::ops::Range<u64>| {
            indexes.map(|index| LogEntry { index, bytes: Default::default() }).collect::<Vec<_>>()
        };
        group.append(entries(1..6), Box::new(|_| {})).await.unwrap();
        // A snapshot up to 9 was installed; the mark is on disk, and the power went.
        let installed = LogId::new(LeaderId::new(2, iris_protocol::NodeId(1)).to_committed(), 9);
        group.put(PURGED_KEY, encode(&installed)).await.unwrap();
        let (mut log, _durable) = LogStore::open(group.clone()).unwrap();
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(installed), Some(installed)));
        group.append(entries(10..12), Box::new(|_| {})).await.unwrap();
        assert_eq!((group.first_index(), group.last_index()), (Some(10), Some(11)));
    }
}
