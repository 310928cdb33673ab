//! Which name means which node, in every folder: as programs see it, and as the disk has it. Owns the order in which names
//! changed. A name is on the disk once its folder was synced, as POSIX has it: syncing the file alone is not enough.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

use super::disk::Id;

/// A folder's names.
#[derive(Debug, Clone, Default)]
struct Folder {
    seen: BTreeMap<OsString, Id>,
    disk: BTreeMap<OsString, Id>,
}

/// One name that began to mean something else.
#[derive(Debug, Clone)]
struct Change {
    folder: Id,
    name: OsString,
    to: Option<Id>,
}

/// The names of all folders.
#[derive(Debug, Default)]
pub(super) struct Names {
    folders: HashMap<Id, Folder>,
    /// Each is one operation, which a cut takes whole or not at all: a rename is two changes.
    unsynced: Vec<Vec<Change>>,
}

impl Names {
    /// A new, empty folder.
    pub(super) fn add_folder(&mut self, id: Id) {
        self.folders.insert(id, Folder::default());
    }

    pub(super) fn is_folder(&self, id: Id) -> bool {
        self.folders.contains_key(&id)
    }

    pub(super) fn find(&self, folder: Id, name: &OsStr) -> Option<Id> {
        self.folders.get(&folder)?.seen.get(name).copied()
    }

    pub(super) fn is_empty(&self, folder: Id) -> bool {
        self.folders.get(&folder).is_none_or(|folder| folder.seen.is_empty())
    }

    /// A folder's names, as programs see them.
    pub(super) fn list(&self, folder: Id) -> impl Iterator<Item = (&OsString, Id)> {
        self.folders.get(&folder).into_iter().flat_map(|folder| folder.seen.iter().map(|(name, id)| (name, *id)))
    }

    /// Whether a name means this node for programs.
    pub(super) fn is_seen(&self, node: Id) -> bool {
        self.folders.values().any(|folder| folder.seen.values().any(|id| *id == node))
    }

    /// Whether a name means this node, or may after a cut.
    pub(super) fn is_used(&self, node: Id) -> bool {
        self.is_seen(node)
            || self.folders.values().any(|folder| folder.disk.values().any(|id| *id == node))
            || self.unsynced.iter().flatten().any(|change| change.to == Some(node))
    }

    /// One operation: each name means this node, or nothing, from now on.
    pub(super) fn change(&mut self, changes: impl IntoIterator<Item = (Id, OsString, Option<Id>)>) {
        let mut operation = Vec::new();
        for (folder, name, to) in changes {
            let Some(names) = self.folders.get_mut(&folder) else { continue };
            match to {
                Some(id) => names.seen.insert(name.clone(), id),
                None => names.seen.remove(&name),
            };
            operation.push(Change { folder, name, to });
        }
        self.unsynced.push(operation);
    }

    /// The names of this folder are on the disk. Of a rename between folders that is one half, until the other is synced.
    /// Returns the nodes that may be used no longer.
    pub(super) fn sync(&mut self, folder: Id) -> Vec<Id> {
        let mut doubtful = Vec::new();
        for operation in &mut self.unsynced {
            doubtful.extend(operation.extract_if(.., |change| change.folder == folder).filter_map(|change| change.to));
        }
        self.unsynced.retain(|operation| !operation.is_empty());
        if let Some(names) = self.folders.get_mut(&folder) {
            doubtful.extend(names.disk.values());
            names.disk = names.seen.clone();
        }
        doubtful
    }

    /// Names changed and not synced.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Only the disk counts from here on, and the first `kept` of the operations that were not on it.
    pub(super) fn cut(&mut self, kept: usize) {
        for change in std::mem::take(&mut self.unsynced).into_iter().take(kept).flatten() {
            if let Some(names) = self.folders.get_mut(&change.folder) {
                match change.to {
                    Some(id) => names.disk.insert(change.name, id),
                    None => names.disk.remove(&change.name),
                };
            }
        }
        for folder in self.folders.values_mut() {
            folder.seen = folder.disk.clone();
        }
    }

    /// Every node that a name leads to from `root`, `root` too; forgets folders that none leads to.
    pub(super) fn sweep(&mut self, root: Id) -> Vec<Id> {
        let (mut found, mut next) = (vec![root], 0);
        while let Some(folder) = found.get(next).copied() {
            next += 1;
            found.extend(self.list(folder).map(|(_, id)| id).collect::<Vec<_>>());
        }
        self.folders.retain(|id, _| found.contains(id));
        found
    }

    pub(super) fn forget(&mut self, folder: Id) {
        self.folders.remove(&folder);
    }
}
