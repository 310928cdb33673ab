//! A log whose writer is stepped, as the simulation has it: nobody is answered before the fsync has arrived, and a crash in between
//! leaves what a power cut, a torn write or the mere death of the process would.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{all, append_later, entries, options, wait};
use iris_store::testing::{Left, LossyFs};
use iris_store::{GroupId, RaftLog, Step};

const GROUP: GroupId = GroupId(1);

/// Two entries that were answered, and two whose fsync was on its way; then the end. What a new life finds.
async fn found_after(dir: &Path, left: Left<'_>) -> usize {
    let fs = Arc::new(LossyFs::default());
    let (log, mut stepper) = RaftLog::open_stepped(options(dir), fs.clone()).unwrap();
    fs.defer_sync(true);
    let group = log.group(GROUP);
    let mut done = append_later(&group, entries(1..3, "answered")).await.unwrap();
    assert_eq!(stepper.write(), Step::Wrote);
    assert!(done.try_recv().is_err(), "nobody is told before the fsync has arrived");
    fs.settle().unwrap();
    assert_eq!(stepper.answer(), Step::Wrote);
    wait(done).await.unwrap().unwrap();
    drop(append_later(&group, entries(3..5, "on its way")).await.unwrap());
    assert_eq!((stepper.write(), stepper.write()), (Step::Wrote, Step::Idle));
    fs.crash(left).unwrap();
    drop((group, log, stepper));
    let again = all(&RaftLog::open(options(dir)).unwrap().group(GROUP));
    assert_eq!(again[..2], entries(1..3, "answered"));
    again.len()
}

#[tokio::test]
async fn a_crash_between_write_and_fsync_leaves_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(found_after(&dir.path().join("power"), Left::Nothing).await, 2);
    assert_eq!(found_after(&dir.path().join("process"), Left::All).await, 4);
    for torn in 0..40 {
        let mut keep = |len: usize| len.min(torn);
        let found = found_after(&dir.path().join(format!("torn {torn}")), Left::Torn(&mut keep)).await;
        assert_eq!(found, 2, "{torn} bytes are no whole record");
    }
}

#[tokio::test]
async fn a_closed_log_ends_its_stepper_after_the_last_write() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut stepper) = RaftLog::open_stepped(options(dir.path()), Arc::new(LossyFs::default())).unwrap();
    let done = append_later(&log.group(GROUP), entries(1..2, "last")).await.unwrap();
    log.shutdown();
    assert_eq!((stepper.write(), stepper.answer(), stepper.write()), (Step::Wrote, Step::Wrote, Step::Ended));
    wait(done).await.unwrap().unwrap();
    assert!(wait(log.closed()).await.is_none());
}
