//! The disk itself: files and folders, what a program may do to them, and what a power cut leaves. Owns all state, in memory,
//! and knows nothing of FUSE; a number that the kernel gave is checked where it comes in.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use libc::{EISDIR, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, ESTALE, c_int};
use rand::Rng;

use super::file::{Content, Survives};
use super::names::Names;
use super::pages::PAGE;
use super::{Cut, Tear};
use crate::seed;

/// A node's number here, the same for its whole life.
pub(super) type Id = u64;

/// The top folder.
pub(super) const ROOT: Id = 1;

/// Bits of a number given to the kernel that are the node's own; above them is how often the power was cut. After a cut every
/// node has another number, so nothing that the kernel keeps of before can come back, and whoever still has a file open
/// is told that it is stale.
const ID_BITS: u32 = 40;

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind {
    File(Content),
    Folder,
    /// A socket's name: the socket is the kernel's.
    Socket,
}

/// Anything that has a name.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) owner: (u32, u32),
    pub(super) changed: SystemTime,
    opened: u32,
}

/// The state of the disk.
#[derive(Debug)]
pub(super) struct Disk {
    nodes: HashMap<Id, Node>,
    names: Names,
    next_id: Id,
    cuts: u64,
    /// Counts changes of content through all files.
    changes: u64,
    /// Bytes that fit on it.
    capacity: Option<u64>,
    pub(super) ignore_sync: bool,
    pub(super) fail_sync: bool,
}

/// What an operation says: an error number if it fails.
pub(super) type Outcome<T> = Result<T, c_int>;

impl Disk {
    pub(super) fn new(owner: (u32, u32)) -> Self {
        let root = Node { kind: Kind::Folder, mode: 0o755, owner, changed: SystemTime::UNIX_EPOCH, opened: 0 };
        let mut names = Names::default();
        names.add_folder(ROOT);
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            names,
            next_id: ROOT + 1,
            cuts: 0,
            changes: 0,
            capacity: None,
            ignore_sync: false,
            fail_sync: false,
        }
    }

    /// The number the kernel is given for a node.
    pub(super) fn shown(&self, id: Id) -> u64 {
        if id == ROOT { ROOT } else { self.cuts << ID_BITS | id }
    }

    /// The node of a number the kernel has.
    pub(super) fn known(&self, shown: u64) -> Outcome<Id> {
        let id = shown & ((1 << ID_BITS) - 1);
        if self.shown(id) == shown && self.nodes.contains_key(&id) { Ok(id) } else { Err(ESTALE) }
    }

    pub(super) fn node(&self, id: Id) -> Outcome<&Node> {
        self.nodes.get(&id).ok_or(ENOENT)
    }

    pub(super) fn node_mut(&mut self, id: Id) -> Outcome<&mut Node> {
        self.nodes.get_mut(&id).ok_or(ENOENT)
    }

    pub(super) fn content(&self, id: Id) -> Outcome<&Content> {
        match &self.node(id)?.kind {
            Kind::File(content) => Ok(content),
            _ => Err(EISDIR),
        }
    }

    fn content_mut(&mut self, id: Id) -> Outcome<&mut Content> {
        let node = self.node_mut(id)?;
        match &mut node.kind {
            Kind::File(content) => {
                node.changed = SystemTime::now();
                Ok(content)
            }
            _ => Err(EISDIR),
        }
    }

    pub(super) fn find(&self, folder: Id, name: &OsStr) -> Outcome<Id> {
        if self.names.is_folder(folder) { self.names.find(folder, name).ok_or(ENOENT) } else { Err(ENOTDIR) }
    }

    /// A folder's nodes with their names, in an order that a removal does not change: that of their making.
    pub(super) fn list(&self, folder: Id) -> Vec<(Id, OsString)> {
        let mut listed: Vec<_> = self.names.list(folder).map(|(name, id)| (id, name.clone())).collect();
        listed.sort();
        listed
    }

    pub(super) fn create(&mut self, folder: Id, name: &OsStr, kind: Kind, mode: u16, owner: (u32, u32)) -> Outcome<Id> {
        match self.find(folder, name) {
            Ok(_) => return Err(libc::EEXIST),
            Err(ENOENT) => {}
            Err(error) => return Err(error),
        }
        let id = self.next_id;
        self.next_id += 1;
        if matches!(kind, Kind::Folder) {
            self.names.add_folder(id);
        }
        self.nodes.insert(id, Node { kind, mode, owner, changed: SystemTime::now(), opened: 0 });
        self.names.change([(folder, name.to_owned(), Some(id))]);
        Ok(id)
    }

    pub(super) fn remove(&mut self, folder: Id, name: &OsStr) -> Outcome<()> {
        let id = self.find(folder, name)?;
        if !self.names.is_empty(id) {
            return Err(ENOTEMPTY);
        }
        self.names.change([(folder, name.to_owned(), None)]);
        self.drop_if_unused(id);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: (Id, &OsStr), to: (Id, &OsStr)) -> Outcome<()> {
        let id = self.find(from.0, from.1)?;
        let replaced = self.find(to.0, to.1).ok().filter(|replaced| *replaced != id);
        if replaced.is_some_and(|replaced| !self.names.is_empty(replaced)) {
            return Err(ENOTEMPTY);
        }
        if from != to {
            self.names.change([(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(id))]);
        }
        if let Some(replaced) = replaced {
            self.drop_if_unused(replaced);
        }
        Ok(())
    }

    pub(super) fn opened(&mut self, id: Id) -> Outcome<()> {
        self.node_mut(id)?.opened += 1;
        Ok(())
    }

    pub(super) fn closed(&mut self, id: Id) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.opened = node.opened.saturating_sub(1);
        }
        self.drop_if_unused(id);
    }

    /// A node that nobody has open and no name leads to, nor could after a cut, is gone.
    fn drop_if_unused(&mut self, id: Id) {
        if id != ROOT && self.nodes.get(&id).is_some_and(|node| node.opened == 0) && !self.names.is_used(id) {
            self.nodes.remove(&id);
            self.names.forget(id);
        }
    }

    /// Bytes that everything takes which programs can see.
    fn used(&self) -> u64 {
        let seen = |(id, node): (&Id, &Node)| match &node.kind {
            Kind::File(content) if node.opened > 0 || self.names.is_seen(*id) => content.seen().room(),
            _ => 0,
        };
        self.nodes.iter().map(seen).sum()
    }

    /// Bytes that still fit; `None` is no limit.
    pub(super) fn room(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used()))
    }

    /// Bytes that fit in all.
    pub(super) fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    pub(super) fn set_room(&mut self, room: Option<u64>) {
        self.capacity = room.map(|room| self.used() + room / PAGE * PAGE);
    }

    /// As much of the data as there is room for; says how much.
    pub(super) fn write(&mut self, id: Id, at: u64, data: &[u8]) -> Outcome<usize> {
        let mut data = data;
        if let Some(room) = self.room() {
            let pages = self.content(id)?.seen();
            while pages.room_for(at, data.len() as u64) > room {
                // Up to the end of the page before.
                let end = at + data.len() as u64;
                let shorter = ((end - 1) / PAGE * PAGE).saturating_sub(at);
                data = &data[..usize::try_from(shorter).unwrap_or(0)];
            }
            if data.is_empty() {
                return Err(ENOSPC);
            }
        }
        let number = self.next_change();
        self.content_mut(id)?.write(number, at, data);
        Ok(data.len())
    }

    pub(super) fn set_len(&mut self, id: Id, len: u64) -> Outcome<()> {
        let number = self.next_change();
        self.content_mut(id)?.set_len(number, len);
        Ok(())
    }

    pub(super) fn allocate(&mut self, id: Id, at: u64, size: u64, keep_len: bool) -> Outcome<()> {
        if self.room().is_some_and(|room| self.content(id).is_ok_and(|file| file.seen().room_for(at, size) > room)) {
            return Err(ENOSPC);
        }
        let number = self.next_change();
        self.content_mut(id)?.allocate(number, at, size, keep_len);
        Ok(())
    }

    fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// How far an fsync that begins now reaches.
    pub(super) fn now(&self) -> u64 {
        self.changes
    }

    /// What an fsync does that works.
    pub(super) fn sync(&mut self, id: Id, upto: u64) -> Outcome<()> {
        if self.ignore_sync {
            return Ok(());
        }
        match &mut self.node_mut(id)?.kind {
            Kind::File(content) => content.sync(upto),
            Kind::Folder => self.names.sync(id).into_iter().for_each(|node| self.drop_if_unused(node)),
            Kind::Socket => {}
        }
        Ok(())
    }

    /// What an fsync does that fails.
    pub(super) fn fail(&mut self, id: Id, upto: u64) {
        if let Ok(Node { kind: Kind::File(content), .. }) = self.node_mut(id) {
            content.fail(upto);
        }
    }

    /// Every file with its path and length, as programs see them.
    pub(super) fn files(&self) -> Vec<(PathBuf, Id, u64)> {
        let (mut files, mut folders) = (Vec::new(), vec![(PathBuf::new(), ROOT)]);
        while let Some((path, folder)) = folders.pop() {
            for (name, id) in self.names.list(folder) {
                let path = path.join(name);
                match self.node(id).map(|node| &node.kind) {
                    Ok(Kind::File(content)) => files.push((path, id, content.seen().len())),
                    Ok(Kind::Folder) => folders.push((path, id)),
                    _ => {}
                }
            }
        }
        files.sort();
        files
    }

    /// Flips a bit of the file at `path`; its node, if it has that byte.
    pub(super) fn flip(&mut self, path: &Path, at: u64, bit: u8) -> Option<Id> {
        let id = path.iter().try_fold(ROOT, |folder, name| self.find(folder, name)).ok()?;
        match &mut self.node_mut(id).ok()?.kind {
            Kind::File(content) => content.flip(at, bit).then_some(id),
            _ => None,
        }
    }

    /// What was not synced is gone, but for what `tear` leaves; nobody has a file open any more.
    pub(super) fn power_cut(&mut self, tear: Tear) -> Cut {
        let mut rng = seed::rng(if let Tear::Random(seed) = tear { seed } else { 0 }, "power cut");
        let names = self.names.unsynced();
        let kept = if let Tear::Random(_) = tear { rng.random_range(0..=names) } else { 0 };
        let paths: HashMap<Id, PathBuf> = self.files().into_iter().map(|(path, id, _)| (id, path)).collect();
        self.names.cut(kept);
        let mut cut = Cut { names: (names - kept) as u64, ..Cut::default() };
        let mut ids: Vec<Id> = self.nodes.keys().copied().collect();
        // The same seed must meet the files in the same order.
        ids.sort_unstable();
        for id in ids {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.opened = 0;
            if let Kind::File(content) = &mut node.kind {
                let loss = content.cut(Survives::of(tear, &mut rng));
                cut.writes += loss.writes;
                cut.bytes += loss.bytes;
                cut.torn.extend(loss.torn.map(|torn| (paths.get(&id).cloned().unwrap_or_default(), torn)));
            }
        }
        let left = self.names.sweep(ROOT);
        self.nodes.retain(|id, _| left.contains(id));
        self.cuts += 1;
        cut
    }
}
