//! Which store a data folder keeps its inboxes in: chosen when the folder is made, remembered in it, never changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::{SledWarm, Verified, Warm, WarmStore, sqlite};
use crate::checked_file::{create_private_dir, io_error};
use crate::{StoreError, read_checked, write_checked};

/// Where the folder says which engine it was made with.
const ENGINE_FILE: &str = "engine";
const ENGINE_FILE_VERSION: u16 = 1;

/// Copies for a check that must change nothing; removed after it.
const SCRATCH_FOLDER: &str = "check.tmp";

/// An embedded store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// SQLite, the default.
    Sqlite,
    /// sled 0.34: pure Rust, slower, more memory, gives no space back.
    Sled,
}

impl Engine {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Sled];

    fn path(self, data: &Path) -> PathBuf {
        data.join(match self {
            Self::Sqlite => "inboxes.db",
            Self::Sled => "inboxes.sled",
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Sled => "sled",
        })
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|engine| engine.to_string() == name).ok_or_else(|| format!("no engine {name:?}"))
    }
}

/// The engine a data folder was made with, if it was.
///
/// # Errors
/// The system's, damage, or an engine this Iris doesn't have.
pub fn made_with(data: &Path) -> Result<Option<Engine>, StoreError> {
    let path = data.join(ENGINE_FILE);
    match read_checked(&path)? {
        None => Ok(None),
        Some((ENGINE_FILE_VERSION, name)) => {
            let engine = String::from_utf8_lossy(&name).parse();
            engine.map(Some).map_err(|why| StoreError::Corrupt { path, what: "the engine's name".to_owned(), why })
        }
        Some((version, _)) => {
            Err(StoreError::Version { path, found: version.into(), known: ENGINE_FILE_VERSION.into() })
        }
    }
}

/// Opens the store of a data folder, or makes it.
///
/// # Errors
/// The folder was made with another engine, or the store can't be opened.
pub fn open(engine: Engine, data: &Path) -> Result<Arc<dyn WarmStore>, StoreError> {
    match made_with(data)? {
        Some(made) if made != engine => {
            let (made, asked) = (made.to_string(), engine.to_string());
            return Err(StoreError::Engine { path: data.to_owned(), made, asked });
        }
        Some(_) => {}
        None => {
            create_private_dir(data).map_err(|source| io_error(data, "creating the data folder", source))?;
            // Before the store itself: a crash in between leaves a name and no store, never the other way round.
            write_checked(&data.join(ENGINE_FILE), ENGINE_FILE_VERSION, engine.to_string().as_bytes())?;
        }
    }
    let path = engine.path(data);
    Ok(match engine {
        Engine::Sqlite => Arc::new(Warm::open(&path)?),
        Engine::Sled => Arc::new(SledWarm::open(&path)?),
    })
}

/// Checks the store of a folder that nobody uses, without changing it: on a copy, where opening it would write.
///
/// # Errors
/// The system's, or it can't be opened at all.
pub(crate) fn verify_offline(data: &Path, each: &mut dyn FnMut(Verified)) -> Result<Option<Engine>, StoreError> {
    let Some(engine) = made_with(data)? else { return Ok(None) };
    let path = engine.path(data);
    if !path.exists() {
        let why = "it is not there, though the folder was made with it".to_owned();
        return Err(StoreError::Corrupt { path, what: "the store of inboxes".to_owned(), why });
    }
    let scratch = Scratch::new(data)?;
    match engine {
        Engine::Sqlite => sqlite::verify_copy(&path, &scratch.0, each)?,
        Engine::Sled => {
            let copy = scratch.0.join("sled");
            copy_folder(&path, &copy).map_err(|source| io_error(&path, "copying it for the check", source))?;
            SledWarm::open(&copy)?.verify(each)?;
        }
    }
    Ok(Some(engine))
}

/// A folder that is gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(data: &Path) -> Result<Self, StoreError> {
        let scratch = Self(data.join(SCRATCH_FOLDER));
        // What a check that was killed left.
        scratch.remove();
        create_private_dir(&scratch.0).map_err(|source| io_error(&scratch.0, "creating it", source))?;
        Ok(scratch)
    }

    fn remove(&self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.0.display(), "removing the check's copies");
            }
            _ => {}
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    create_private_dir(to)?;
    for file in std::fs::read_dir(from)? {
        let path = file?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
