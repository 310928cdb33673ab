//! The note of a quarantine, in the data folder: what was found, and how far the way back is. As long as it is there no start goes
//! on with these data. Written before anything else is done about the damage, and moved away with the old data as the last step.

use std::path::Path;

use iris_protocol::versioned::Versioned;
use serde::{Deserialize, Serialize};

use crate::versioned_file;

/// The note's name in the data folder.
pub const NOTE_NAME: &str = "quarantine";
const FILE_VERSION: u16 = 1;

/// A quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What is damaged, as its finder said it.
    pub what: String,
    /// When it was found, in Unix milliseconds by this node's clock.
    pub found_ms: u64,
    /// How far the way back is.
    pub stage: Stage,
}

/// How far the way back is. Each step may be begun again after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The node serves nobody, and asks for a new place as soon as the others can do without it. What it would come back with is
    /// in a folder of its own.
    Waiting,
    /// It has a new place, which is noted there; the old data are being moved into this folder.
    MovingAside(String),
    /// They are all there; the new place is being taken up.
    TakingUp(String),
}

impl Versioned for Note {
    const NAME: &'static str = "quarantine note";
    const VERSION: u8 = 1;
}

impl Note {
    /// Reads it; `None` if this folder is in no quarantine.
    ///
    /// # Errors
    /// It can't be read.
    pub fn load(data: &Path) -> anyhow::Result<Option<Self>> {
        versioned_file::load(&data.join(NOTE_NAME), FILE_VERSION)
    }

    /// Writes it; durable when it returns.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, data: &Path) -> anyhow::Result<()> {
        versioned_file::save(&data.join(NOTE_NAME), FILE_VERSION, self)
    }
}
