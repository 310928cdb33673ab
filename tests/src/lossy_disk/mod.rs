//! A disk that can lose power. A folder is mounted (FUSE) whose files lie in this process's memory, twice: as programs see
//! them, and as a disk would have them after a power cut, which is what an fsync has covered and no more. Any program can have
//! its whole data on it, unmodified. It also tears the last write, flips bits, refuses room, and makes fsync fail, dawdle or lie.
//!
//! What it is strict about, as POSIX lets a disk be: an fsync of a file covers its content, not its name, which needs an fsync of
//! its folder; nothing unsynced survives unless [`Tear`] says so. What the kernel does on any other disk it does on this one:
//! page cache, locks, shared memory (SQLite's WAL index). Except syncfs(2), which it does not pass on to FUSE: a program
//! that relies on it loses its data here.
//!
//! A process must not map a file of a disk that it serves itself (so: no SQLite store opened in the test's own process): its
//! page faults would wait for a thread that waits for them.
//!
//! End the processes that use it before [`LossyDisk::power_cut`]; one that lives is told that its open files are stale.

mod disk;
mod file;
mod names;
mod pages;
mod server;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fuser::{BackgroundSession, MountOption, Notifier, Session};
use rustix::mount::UnmountFlags;

use disk::Disk;
pub use file::Torn;
use server::Server;

/// What a power cut leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// Nothing.
    Clean,
    /// So many bytes of the last unsynced write of all, and what was written to its file before; nothing of other files, and no
    /// name. The kernel hands over up to 1 MiB in one write.
    At(u64),
    /// Of every file the first few of its writes and some bytes of the next, and the first few of the changes of names: what
    /// a seed says.
    Random(u64),
}

/// What a power cut took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// Writes that are gone, wholly or in part.
    pub writes: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Changes of names that are gone.
    pub names: u64,
    /// Writes of which a part is left.
    pub torn: Vec<(PathBuf, Torn)>,
}

/// A mounted lossy disk. Dropping it unmounts it and forgets its files.
#[derive(Debug)]
pub struct LossyDisk {
    at: PathBuf,
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
}

/// What the serving threads have in common.
#[derive(Debug)]
struct Shared {
    disk: Mutex<Disk>,
    syncs: AtomicU64,
    sync_delay: Mutex<Duration>,
    delay_changed: Condvar,
    kernel: OnceLock<Notifier>,
}

impl Shared {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    fn sync_delay(&self) -> MutexGuard<'_, Duration> {
        self.sync_delay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as an fsync takes; less if it was made faster meanwhile.
    fn dawdle(&self) {
        let begun = Instant::now();
        let mut delay = self.sync_delay();
        while let Some(left) = delay.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            let waited = self.delay_changed.wait_timeout(delay, left);
            delay = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What the kernel keeps of a file changes. The disk must not be locked: the kernel may ask for something first.
    fn tell_kernel(&self, what: impl FnOnce(&Notifier) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.kernel.get().map(what) {
            tracing::debug!("the kernel didn't take a change of its cache: {error}");
        }
    }
}

impl LossyDisk {
    /// Why this machine can't have one, if it can't; tried out, not guessed.
    #[must_use]
    pub fn unavailable() -> Option<String> {
        let tried = tempfile::tempdir().map_err(anyhow::Error::from).and_then(|dir| {
            let _disk = Self::mount(dir.path())?;
            let probe = dir.path().join("probe");
            std::fs::write(&probe, b"probe")?;
            if std::fs::read(&probe)? == b"probe" { Ok(()) } else { bail!("it does not give back what it was given") }
        });
        tried.err().map(|error| format!("no FUSE here (root and /dev/fuse, or fusermount3, are needed): {error:#}"))
    }

    /// An empty disk, mounted at a folder, which is made if need be. A thread of this process serves it.
    ///
    /// # Errors
    /// No FUSE here, or the folder can't be made.
    pub fn mount(at: &Path) -> anyhow::Result<Self> {
        // The remains of a run that was killed.
        if std::fs::metadata(at).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN)) {
            rustix::mount::unmount(at, UnmountFlags::DETACH).with_context(|| format!("unmounting {}", at.display()))?;
        }
        std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let shared = Arc::new(Shared {
            disk: Mutex::new(Disk::new(owner)),
            syncs: AtomicU64::new(0),
            sync_delay: Mutex::default(),
            delay_changed: Condvar::new(),
            kernel: OnceLock::new(),
        });
        let options = [MountOption::FSName("lossy".to_owned()), MountOption::NoAtime];
        let session = Session::new(Server(shared.clone()), at, &options);
        let session = session.with_context(|| format!("mounting a lossy disk at {}", at.display()))?;
        let _ = shared.kernel.set(session.notifier());
        let session = session.spawn().context("starting the thread of a lossy disk")?;
        Ok(Self { at: at.to_owned(), shared, session: Some(session) })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// The power goes and comes back: what was not synced is gone, but for what `tear` leaves. Settings stay as they are.
    pub fn power_cut(&self, tear: Tear) -> Cut {
        self.shared.disk().power_cut(tear)
    }

    /// An fsync from now on says yes and does nothing: the negative control of a power cut.
    pub fn ignore_sync(&self, ignore: bool) {
        self.shared.disk().ignore_sync = ignore;
    }

    /// An fsync from now on fails with EIO. As with Linux, what it should have written then counts as clean: the next
    /// fsync says yes and does not write it, programs go on reading it as long as the kernel has it in its page cache, and the disk
    /// has what was there before.
    pub fn fail_sync(&self, fail: bool) {
        self.shared.disk().fail_sync = fail;
    }

    /// So many bytes (whole pages of 4 KiB) may still be written, then writes fail with ENOSPC; what is deleted or shortened
    /// makes room. `None` is no limit. statfs(2) shows it.
    pub fn set_room(&self, room: Option<u64>) {
        self.shared.disk().set_room(room);
    }

    /// Every fsync takes this long from now on, also those under way; everything else goes on meanwhile.
    pub fn slow_sync(&self, delay: Duration) {
        *self.shared.sync_delay() = delay;
        self.shared.delay_changed.notify_all();
    }

    /// Every file, relative to where it is mounted, and its length.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.shared.disk().files().into_iter().map(|(path, _, len)| (path, len)).collect()
    }

    /// Flips bit 0 to 7 of a byte, also under the processes that run: on the disk, and in what the kernel keeps of it.
    ///
    /// # Errors
    /// There is no such file, or it is shorter.
    pub fn flip_bit(&self, path: &Path, at: u64, bit: u8) -> anyhow::Result<()> {
        let flipped = {
            let mut disk = self.shared.disk();
            disk.flip(path, at, bit).map(|id| disk.shown(id))
        };
        let shown = flipped.with_context(|| format!("{} has no byte {at} to flip", path.display()))?;
        self.shared.tell_kernel(|kernel| kernel.inval_inode(shown, 0, 0));
        Ok(())
    }

    /// Fsyncs so far, of files and folders.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.shared.syncs.load(Ordering::SeqCst)
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        // A process that still has it (or a network namespace with its own copy of the mounts) keeps it until it goes.
        if let Err(error) = rustix::mount::unmount(&self.at, UnmountFlags::DETACH) {
            tracing::debug!("{} was not unmounted: {error}", self.at.display());
        }
        drop(self.session.take());
    }
}
