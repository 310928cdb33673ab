//! What sled said is durable, where sled can't lose it. When a part of its file is damaged, sled takes what follows for a write
//! that a crash broke off and opens an older state without a word. So every durable step has a number, in `heads` and, after
//! sled's flush, in a small file beside, fsynced after sled's files: it may be old after a power cut, never too new. An older
//! number in sled than in the file means that something was lost.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::{Inner, layout};
use crate::StoreError;

const FILE: &str = "receipt";
const KEY: &[u8] = b"receipt";

impl Inner {
    fn receipt_path(&self) -> PathBuf {
        self.path.join(FILE)
    }

    fn step(&self) -> Result<u64, StoreError> {
        let found = self.told("reading", self.trees.heads.get(layout::STEP_KEY))?;
        found.map_or(Ok(0), |bytes| {
            let bytes =
                bytes.as_ref().try_into().map_err(|_| self.damaged("the number of the last step", "its length"))?;
            Ok(u64::from_le_bytes(bytes))
        })
    }

    /// Makes a batch on `heads` durable, and notes that it is.
    pub(super) fn durable_step(&self, action: &'static str, mut batch: ::sled::Batch) -> Result<(), StoreError> {
        let step = self.step()? + 1;
        batch.insert(layout::STEP_KEY, &step.to_le_bytes());
        self.writing(action, self.trees.heads.apply_batch(batch))?;
        self.flush()?;
        let value = layout::value(KEY, |out| out.extend_from_slice(&step.to_le_bytes()));
        let path = self.receipt_path();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        // One small write in place: a crash leaves the old content, the new one, or one whose checksum tells.
        let written = options.open(&path).and_then(|mut file| file.write_all(&value).and_then(|()| file.sync_all()));
        written.map_err(|source| self.doubted(&path, "writing", source))
    }

    /// Whether sled still has everything it said it had.
    pub(super) fn check_receipt(&self) -> Result<(), StoreError> {
        let Ok(value) = std::fs::read(self.receipt_path()) else { return Ok(()) };
        let Ok(noted) = layout::check(KEY, &value) else { return Ok(()) };
        let (noted, has) = (noted.try_into().map_or(0, u64::from_le_bytes), self.step()?);
        if noted > has {
            let why = format!("sled lost the last {} of {noted} steps that were durable", noted - has);
            return Err(self.damaged("the store", why));
        }
        Ok(())
    }
}
