//! Row 5, TORN-WRITE: the power goes in the middle of the last write, so that some of its bytes are on the disk and the rest are
//! not; only what was not acked may go with it, and no node may take it for damage. Which byte is random here; every byte of
//! a record of the log is tried in `store/tests/torn_write.rs`.

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use rand::Rng;

use crate::cluster::Options;
use crate::faults::disks::with_each_engine;
use crate::faults::outcome::Tally;
use crate::faults::power::rounds;
use crate::faults::{Outcome, Rounds, Row, RowRun};
use crate::lossy_disk::Tear;

/// The row.
pub const ROW: Row = Row {
    name: "TORN-WRITE",
    number: 5,
    about: "the power goes in the middle of a write",
    rounds: Rounds { short: 3, long: 40 },
    run,
};

/// The bytes around a record's head and its checksums, where a tear is most likely to be misread, and those of a large one.
const HEAD_BYTES: u64 = 64;
const RECORD_BYTES: u64 = 8_192;

fn run<'a>(run: &'a RowRun<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>> {
    Box::pin(with_each_engine(run, play))
}

async fn play(run: &RowRun<'_>, options: Options) -> anyhow::Result<Tally> {
    let mut torn = 0;
    let tally = rounds(run, options, async |round, dark, rng| {
        let more = rng.random_range(1..300);
        dark.more(more, rng).await?;
        dark.cut_all(|| {
            let most = if rng.random_bool(0.5) { HEAD_BYTES } else { RECORD_BYTES };
            Tear::At(rng.random_range(1..most))
        })?;
        torn = dark.taken.torn;
        run.say(&format!("round {round}: torn at {} acked: {}", dark.load.oracle.acked(), dark.taken));
        Ok(())
    });
    let tally = tally.await?;
    ensure!(torn > 0, "no write was torn in any round: the row shows nothing");
    Ok(tally)
}
