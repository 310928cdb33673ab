//! What the kernel asks for, as FUSE has it, answered by the disk. Owns translation, and the threads on which a slow or a
//! failing fsync ends; the disk itself never waits.

use std::ffi::OsStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::consts::FOPEN_KEEP_CACHE;
use fuser::{
    FileAttr, FileType, Filesystem, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
};
use libc::{EINVAL, EIO, EOPNOTSUPP};

use super::disk::{Disk, Id, Kind, Outcome, ROOT};
use super::file::Content;
use super::pages::PAGE;
use super::served::Shared;

/// The kernel may keep no name and no length without asking: both change behind its back at a cut.
const NEVER: Duration = Duration::ZERO;

/// Longest name.
const NAME_MAX: u32 = 255;

/// What a disk without a limit says of itself: 1 TiB.
const NO_LIMIT: u64 = 1 << 40;

/// Answers the kernel.
pub(super) struct Server(pub(super) Arc<Shared>);

fn attributes(disk: &Disk, id: Id) -> Outcome<FileAttr> {
    let node = disk.node(id)?;
    let (kind, size, room) = match &node.kind {
        Kind::File(content) => (FileType::RegularFile, content.seen().len(), content.seen().room()),
        Kind::Folder => (FileType::Directory, PAGE, PAGE),
        Kind::Socket => (FileType::Socket, 0, 0),
    };
    Ok(FileAttr {
        ino: disk.shown(id),
        size,
        blocks: room / 512,
        atime: node.changed,
        mtime: node.changed,
        ctime: node.changed,
        crtime: node.changed,
        kind,
        perm: node.mode,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid: node.owner.0,
        gid: node.owner.1,
        rdev: 0,
        blksize: u32::try_from(PAGE).unwrap_or(512),
        flags: 0,
    })
}

impl Server {
    fn make(&self, request: &Request<'_>, parent: u64, name: &OsStr, kind: Kind, mode: u32) -> Outcome<FileAttr> {
        let mut disk = self.0.disk();
        let folder = disk.known(parent)?;
        let mode = u16::try_from(mode & 0o7777).unwrap_or(0);
        let id = disk.create(folder, name, kind, mode, (request.uid(), request.gid()))?;
        attributes(&disk, id)
    }

    fn remove(&self, parent: u64, name: &OsStr) -> Outcome<()> {
        let mut disk = self.0.disk();
        let folder = disk.known(parent)?;
        disk.remove(folder, name)
    }

    /// What every fsync is, of a file or a folder.
    fn synced(&self, shown: u64, reply: ReplyEmpty) {
        let begun = {
            let mut disk = self.0.disk();
            self.0.count_sync();
            let (at_once, fails) = (self.0.sync_delay().is_zero(), disk.fail_sync);
            let upto = disk.now();
            match disk.known(shown) {
                Ok(id) if at_once && !fails => Err(disk.sync(id, upto)),
                Ok(id) => Ok((id, upto, fails)),
                Err(error) => Err(Err(error)),
            }
        };
        match begun {
            Err(outcome) => answer(outcome, reply),
            Ok((id, upto, fails)) => {
                let shared = self.0.clone();
                // Everything else goes on meanwhile, as with a page cache before a slow disk.
                thread::spawn(move || {
                    shared.dawdle();
                    answer(if fails { fail(&shared, shown, id, upto) } else { late_sync(&shared, shown, upto) }, reply);
                });
            }
        }
    }
}

fn answer(outcome: Outcome<()>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// An fsync that took its time; the power may have been cut meanwhile.
fn late_sync(shared: &Shared, shown: u64, upto: u64) -> Outcome<()> {
    let mut disk = shared.disk();
    let id = disk.known(shown)?;
    disk.sync(id, upto)
}

/// An fsync that fails. Linux then keeps what was written in its page cache, as if it were clean, until the pages are dropped
/// or the machine restarts; so the kernel is given them before the disk forgets them. Not on the thread that serves: the kernel
/// may hold a page that it waits for there.
fn fail(shared: &Shared, shown: u64, id: Id, upto: u64) -> Outcome<()> {
    let unwritten: Vec<(u64, Vec<u8>)> = {
        let disk = shared.disk();
        let pages = disk.content(id).map(Content::seen);
        let ranges = disk.content(id).map(|content| content.unsynced(upto)).unwrap_or_default();
        let whole = |(at, size): (u64, u64)| (at / PAGE * PAGE, (at + size).div_ceil(PAGE) * PAGE);
        let read = |(from, upto): (u64, u64)| Some((from, pages.ok()?.read(from, upto - from)));
        ranges.into_iter().map(whole).filter_map(read).collect()
    };
    for (at, bytes) in unwritten {
        shared.tell_kernel(|kernel| kernel.store(shown, at, &bytes));
    }
    let mut disk = shared.disk();
    let id = disk.known(shown)?;
    disk.fail(id, upto);
    Err(EIO)
}

impl Filesystem for Server {
    fn lookup(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let disk = self.0.disk();
        let found = disk.known(parent).and_then(|folder| disk.find(folder, name)).and_then(|id| attributes(&disk, id));
        match found {
            Ok(found) => reply.entry(&NEVER, &found, 0),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&mut self, _: &Request<'_>, ino: u64, _: Option<u64>, reply: ReplyAttr) {
        let disk = self.0.disk();
        match disk.known(ino).and_then(|id| attributes(&disk, id)) {
            Ok(found) => reply.attr(&NEVER, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &mut self,
        _: &Request<'_>,
        ino: u64,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        changed: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<u64>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<u32>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.0.disk();
        let outcome = disk.known(ino).and_then(|id| {
            size.map_or(Ok(()), |size| disk.set_len(id, size))?;
            let node = disk.node_mut(id)?;
            node.mode = mode.map_or(node.mode, |mode| u16::try_from(mode & 0o7777).unwrap_or(0));
            node.owner = (uid.unwrap_or(node.owner.0), gid.unwrap_or(node.owner.1));
            node.changed = match changed {
                Some(TimeOrNow::SpecificTime(time)) => time,
                Some(TimeOrNow::Now) => SystemTime::now(),
                None => node.changed,
            };
            attributes(&disk, id)
        });
        match outcome {
            Ok(found) => reply.attr(&NEVER, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &mut self,
        request: &Request<'_>,
        parent: u64,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File(Content::default()),
            libc::S_IFSOCK => Kind::Socket,
            _ => return reply.error(EOPNOTSUPP),
        };
        match self.make(request, parent, name, kind, mode) {
            Ok(made) => reply.entry(&NEVER, &made, 0),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&mut self, request: &Request<'_>, parent: u64, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        match self.make(request, parent, name, Kind::Folder, mode) {
            Ok(made) => reply.entry(&NEVER, &made, 0),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name), reply);
    }

    fn rmdir(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name), reply);
    }

    fn rename(
        &mut self,
        _: &Request<'_>,
        parent: u64,
        name: &OsStr,
        newparent: u64,
        newname: &OsStr,
        flags: u32,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.0.disk();
        let outcome = disk.known(parent).and_then(|from| {
            let to = disk.known(newparent)?;
            match flags {
                0 => {}
                libc::RENAME_NOREPLACE if disk.find(to, newname).is_ok() => return Err(libc::EEXIST),
                libc::RENAME_NOREPLACE => {}
                _ => return Err(EINVAL),
            }
            disk.rename((from, name), (to, newname))
        });
        answer(outcome, reply);
    }

    fn create(
        &mut self,
        request: &Request<'_>,
        parent: u64,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(request, parent, name, Kind::File(Content::default()), mode);
        let opened = made.and_then(|made| {
            let mut disk = self.0.disk();
            let id = disk.known(made.ino)?;
            disk.opened(id).map(|()| made)
        });
        match opened {
            Ok(made) => reply.created(&NEVER, &made, 0, 0, FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    /// The page cache is kept over a close and an open, as on any other disk.
    fn open(&mut self, _: &Request<'_>, ino: u64, _: i32, reply: ReplyOpen) {
        let mut disk = self.0.disk();
        match disk.known(ino).and_then(|id| disk.opened(id)) {
            Ok(()) => reply.opened(0, FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn release(&mut self, _: &Request<'_>, ino: u64, _: u64, _: i32, _: Option<u64>, _: bool, reply: ReplyEmpty) {
        let mut disk = self.0.disk();
        if let Ok(id) = disk.known(ino) {
            disk.closed(id);
        }
        reply.ok();
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        ino: u64,
        _: u64,
        at: i64,
        size: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        let disk = self.0.disk();
        let read = disk.known(ino).and_then(|id| {
            let at = u64::try_from(at).map_err(|_| EINVAL)?;
            Ok(disk.content(id)?.seen().read(at, u64::from(size)))
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        ino: u64,
        _: u64,
        at: i64,
        data: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        let mut disk = self.0.disk();
        let written = disk.known(ino).and_then(|id| {
            let at = u64::try_from(at).map_err(|_| EINVAL)?;
            let written = disk.write(id, at, data)?;
            u32::try_from(written).map_err(|_| EINVAL)
        });
        match written {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&mut self, _: &Request<'_>, _: u64, _: u64, _: u64, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&mut self, _: &Request<'_>, ino: u64, _: u64, _: bool, reply: ReplyEmpty) {
        self.synced(ino, reply);
    }

    fn fsyncdir(&mut self, _: &Request<'_>, ino: u64, _: u64, _: bool, reply: ReplyEmpty) {
        self.synced(ino, reply);
    }

    fn fallocate(&mut self, _: &Request<'_>, ino: u64, _: u64, at: i64, size: i64, mode: i32, reply: ReplyEmpty) {
        let mut disk = self.0.disk();
        let outcome = disk.known(ino).and_then(|id| match (u64::try_from(at), u64::try_from(size), mode) {
            (Ok(at), Ok(size), 0 | libc::FALLOC_FL_KEEP_SIZE) => disk.allocate(id, at, size, mode != 0),
            (Ok(_), Ok(_), _) => Err(EOPNOTSUPP),
            _ => Err(EINVAL),
        });
        answer(outcome, reply);
    }

    fn readdir(&mut self, _: &Request<'_>, ino: u64, _: u64, offset: i64, mut reply: ReplyDirectory) {
        let disk = self.0.disk();
        let folder = match disk.known(ino) {
            Ok(folder) => folder,
            Err(error) => return reply.error(error),
        };
        let own = [(disk.shown(folder), 1, ".".into()), (ROOT, 2, "..".into())];
        // A place in the listing is a node's number, so that removals on the way skip nobody.
        let place = |id: Id| i64::try_from(id + 2).unwrap_or(i64::MAX);
        let listed = disk.list(folder).into_iter().map(|(id, name)| (disk.shown(id), place(id), name));
        for (shown, next, name) in own.into_iter().chain(listed).filter(|(_, next, _)| *next > offset) {
            let kind = disk
                .known(shown)
                .and_then(|id| attributes(&disk, id))
                .map_or(FileType::RegularFile, |found| found.kind);
            if reply.add(shown, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&mut self, _: &Request<'_>, _: u64, reply: ReplyStatfs) {
        let disk = self.0.disk();
        let (blocks, free) = (disk.capacity().unwrap_or(NO_LIMIT) / PAGE, disk.room().unwrap_or(NO_LIMIT) / PAGE);
        let page = u32::try_from(PAGE).unwrap_or(512);
        reply.statfs(blocks, free, free, 1 << 20, 1 << 20, page, NAME_MAX, page);
    }

    fn access(&mut self, _: &Request<'_>, ino: u64, _: i32, reply: ReplyEmpty) {
        answer(self.0.disk().known(ino).map(|_| ()), reply);
    }
}
