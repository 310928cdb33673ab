//! The disk where it is served: mounted, with the switches that say how badly it behaves. Owns the mount and the serving threads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use fuser::{BackgroundSession, MountOption, Notifier, Session};
use rustix::mount::UnmountFlags;

use super::disk::Disk;
use super::server::Server;
use super::{Cut, Tear};

/// A disk mounted and served by this process. Dropping it unmounts it and forgets its files.
#[derive(Debug)]
pub struct ServedDisk {
    at: PathBuf,
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
}

/// What the serving threads have in common.
#[derive(Debug)]
pub(super) struct Shared {
    disk: Mutex<Disk>,
    syncs: AtomicU64,
    sync_delay: Mutex<Duration>,
    delay_changed: Condvar,
    kernel: OnceLock<Notifier>,
}

impl Shared {
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_sync(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn sync_delay(&self) -> MutexGuard<'_, Duration> {
        self.sync_delay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as an fsync takes; less if it was made faster meanwhile.
    pub(super) fn dawdle(&self) {
        let begun = Instant::now();
        let mut delay = self.sync_delay();
        while let Some(left) = delay.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            let waited = self.delay_changed.wait_timeout(delay, left);
            delay = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What the kernel keeps of a file changes. The disk must not be locked: the kernel may ask for something first.
    pub(super) fn tell_kernel(&self, what: impl FnOnce(&Notifier) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.kernel.get().map(what) {
            tracing::debug!("the kernel didn't take a change of its cache: {error}");
        }
    }
}

impl ServedDisk {
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

impl Drop for ServedDisk {
    fn drop(&mut self) {
        // A process that still has it (or a network namespace with its own copy of the mounts) keeps it until it goes.
        if let Err(error) = rustix::mount::unmount(&self.at, UnmountFlags::DETACH) {
            tracing::debug!("{} was not unmounted: {error}", self.at.display());
        }
        drop(self.session.take());
    }
}
