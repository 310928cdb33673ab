//! The data folder of a node in quarantine: what it had is moved aside, name by name, and what it comes back with takes its place.
//! Every step is a rename on one disk and may be repeated after a crash; nothing is deleted.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::note::{NOTE_NAME, Note, Stage};
use crate::calendar::utc;

/// Where the new key and the new place wait until the old data are aside.
const NEXT: &str = "next";

/// What a node keeps in its data folder. Others' files there are none of its business. The lock and the socket are the process's.
const OWN: [&str; 13] = [
    "log",
    "meta",
    "engine",
    "inboxes.db",
    "inboxes.db-wal",
    "inboxes.db-shm",
    "inboxes.db-synced",
    "inboxes.sled",
    "snapshots",
    "addresses",
    "ca.pem",
    "membership",
    "identity.key",
];

/// What a node comes back with: the place last, because with it the folder belongs to a node again.
const COMES_BACK_WITH: [&str; 2] = ["identity.key", "membership"];

/// Makes the folder for what a node comes back with, and names it.
///
/// # Errors
/// The system's.
pub fn next(data: &Path) -> anyhow::Result<PathBuf> {
    let next = data.join(NEXT);
    create_private(&next)?;
    sync(data)?;
    Ok(next)
}

/// Takes the remaining steps of a node that has its new place: from the note to a folder that a start takes up.
///
/// # Errors
/// The system's; the next start goes on with what is left.
pub fn come_back(data: &Path, note: &Note) -> anyhow::Result<()> {
    let aside = match &note.stage {
        Stage::Waiting => anyhow::bail!("this node has no new place yet"),
        Stage::MovingAside(aside) => {
            move_aside(data, aside)?;
            Note { stage: Stage::TakingUp(aside.clone()), ..note.clone() }.save(data)?;
            aside
        }
        Stage::TakingUp(aside) => aside,
    };
    for name in COMES_BACK_WITH {
        rename_if_there(&data.join(NEXT).join(name), &data.join(name))?;
    }
    sync(data)?;
    remove_empty(&data.join(NEXT))?;
    // The last step: from here on a start finds a node that was let in.
    rename_if_there(&data.join(NOTE_NAME), &data.join(aside).join(NOTE_NAME))?;
    sync(&data.join(aside))?;
    sync(data)
}

/// Moves everything of the node aside, its note included, and names the folder: nothing of a node is left where it was. A new place
/// that was not taken up goes with it.
///
/// # Errors
/// The system's. What was moved stays where it is; do it again.
pub fn discard(data: &Path, now_ms: u64) -> anyhow::Result<PathBuf> {
    let aside = name(now_ms);
    move_aside(data, &aside)?;
    let path = data.join(&aside);
    rename_if_there(&data.join(NEXT), &path.join(NEXT))?;
    rename_if_there(&data.join(NOTE_NAME), &path.join(NOTE_NAME))?;
    sync(&path)?;
    sync(data)?;
    Ok(path)
}

/// The name of a folder for old data: the time is its finder's, and may be wrong.
#[must_use]
pub fn name(now_ms: u64) -> String {
    format!("quarantine-{}", utc(now_ms).replace(' ', "T").replace(':', "-"))
}

fn move_aside(data: &Path, aside: &str) -> anyhow::Result<()> {
    let aside = data.join(aside);
    create_private(&aside)?;
    for name in OWN {
        rename_if_there(&data.join(name), &aside.join(name))?;
    }
    sync(&aside)?;
    sync(data)
}

fn rename_if_there(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    // Never over something: what lies there is somebody's data.
    anyhow::ensure!(!to.exists(), "{} is in the way of {}; move it elsewhere", to.display(), from.display());
    std::fs::rename(from, to).with_context(|| format!("can't move {} to {}", from.display(), to.display()))
}

fn remove_empty(dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove the empty folder {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn create_private(dir: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).with_context(|| format!("can't create {}", dir.display()))
}

/// Makes what was renamed in a folder durable.
fn sync(dir: &Path) -> anyhow::Result<()> {
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("fsync of {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn contents(dir: &Path) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                found.extend(contents(&path).into_iter().map(|(below, text)| (format!("{name}/{below}"), text)));
            } else if name != NOTE_NAME {
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
        found
    }

    fn old_folder() -> (tempfile::TempDir, Note) {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        for name in ["log/1.raftlog", "identity.key", "membership", "meta", "iris.toml"] {
            write(name, "old");
        }
        let next = next(dir.path()).unwrap();
        for name in COMES_BACK_WITH {
            std::fs::write(next.join(name), "new").unwrap();
        }
        let stage = Stage::MovingAside("aside".to_owned());
        let note = Note { what: "the log".to_owned(), found_ms: 7, stage };
        note.save(dir.path()).unwrap();
        (dir, note)
    }

    fn is_back(data: &Path) {
        let expect = [
            ("aside/identity.key", "old"),
            ("aside/log/1.raftlog", "old"),
            ("aside/membership", "old"),
            ("aside/meta", "old"),
            ("identity.key", "new"),
            ("iris.toml", "old"),
            ("membership", "new"),
        ];
        assert_eq!(contents(data), expect.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
        assert_eq!(Note::load(data).unwrap(), None);
        assert!(data.join("aside").join(NOTE_NAME).exists(), "why it is there is kept with it");
    }

    #[test]
    fn old_data_are_aside_and_the_new_place_is_taken_up() {
        let (dir, note) = old_folder();
        come_back(dir.path(), &note).unwrap();
        is_back(dir.path());
    }

    /// A crash after each rename: the folder as it was then, and a start that goes on.
    #[test]
    fn a_crash_at_any_step_is_gone_on_from() {
        let moves = ["log", "meta", "membership", "identity.key"];
        for done in 0..=moves.len() {
            for taken_up in 0..=if done == moves.len() { COMES_BACK_WITH.len() } else { 0 } {
                let (dir, mut note) = old_folder();
                let data = dir.path();
                std::fs::create_dir(data.join("aside")).unwrap();
                for name in &moves[..done] {
                    std::fs::rename(data.join(name), data.join("aside").join(name)).unwrap();
                }
                if taken_up > 0 {
                    note.stage = Stage::TakingUp("aside".to_owned());
                    note.save(data).unwrap();
                }
                for name in &COMES_BACK_WITH[..taken_up] {
                    std::fs::rename(data.join(NEXT).join(name), data.join(name)).unwrap();
                }
                let note = Note::load(data).unwrap().unwrap();
                come_back(data, &note).unwrap();
                is_back(data);
            }
        }
    }

    #[test]
    fn what_is_discarded_is_kept() {
        let (dir, _) = old_folder();
        let aside = discard(dir.path(), 0).unwrap();
        assert_eq!(aside, dir.path().join("quarantine-1970-01-01T00-00-00"));
        let left: Vec<String> = contents(dir.path()).into_keys().filter(|name| !name.contains('/')).collect();
        assert_eq!(left, ["iris.toml"]);
        let kept = contents(&aside);
        assert!(kept["log/1.raftlog"] == "old" && kept["next/identity.key"] == "new", "{kept:?}");
        assert!(aside.join(NOTE_NAME).exists());
    }
}
