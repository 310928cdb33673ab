//! A disk that can lose power. A folder is mounted (FUSE) whose files lie in memory, twice: as programs see them, and as a disk
//! would have them after a power cut, which is what an fsync has covered and no more. Any program can have its whole data on
//! it, unmodified. It also tears the last write, flips bits, refuses room, and makes fsync fail, dawdle or lie.
//!
//! What it is strict about, as POSIX lets a disk be: an fsync of a file covers its content, not its name, which needs an fsync of
//! its folder; nothing unsynced survives unless [`Tear`] says so. What the kernel does on any other disk it does on this one:
//! page cache, locks, shared memory (SQLite's WAL index). Except syncfs(2), which it does not pass on to FUSE: a program
//! that relies on it loses its data here.
//!
//! A process of its own serves it (`bin/lossy_disk`): one that maps a file it serves itself, as SQLite does, waits for itself
//! for ever. That process ends, and unmounts, with the one that made it. End the processes that use a disk before
//! [`LossyDisk::power_cut`]; one that lives is told that its open files are stale.

mod disk;
mod file;
mod names;
mod pages;
mod request;
mod served;
mod server;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::binaries::Binary;
pub use file::Torn;
pub use request::serve;
use request::{Reply, Request};

/// What a power cut leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tear {
    /// Nothing.
    Clean,
    /// Of every file so many bytes of the last unsynced write, and what was written to it before; no name. The kernel hands over
    /// up to 1 MiB in one write.
    At(u64),
    /// Of every file the first few of its writes and some bytes of the next, and the first few of the changes of names: what
    /// a seed says.
    Random(u64),
}

/// What a power cut took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    child: Child,
    line: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

/// How a system says that a mount is not for this user.
const NOT_ALLOWED: [&str; 4] = ["not permitted", "ermission denied", "fusermount", "No such device"];

impl LossyDisk {
    /// Why this machine can't have one, if it can't; tried out, not guessed. What fails for another reason than that the machine
    /// has or allows no FUSE is no reason to skip: the test that wants a disk meets it and fails.
    #[must_use]
    pub fn unavailable() -> Option<String> {
        if !Path::new("/dev/fuse").exists() {
            return Some("no FUSE here: there is no /dev/fuse".to_owned());
        }
        let tried = tempfile::tempdir().map_err(anyhow::Error::from).and_then(|dir| {
            let _disk = Self::mount(dir.path())?;
            let probe = dir.path().join("probe");
            std::fs::write(&probe, b"probe")?;
            if std::fs::read(&probe)? == b"probe" { Ok(()) } else { bail!("it does not give back what it was given") }
        });
        let refused = |text: &String| NOT_ALLOWED.iter().any(|word| text.contains(word));
        let why = tried.err().map(|error| format!("{error:#}")).filter(refused)?;
        Some(format!("no FUSE here (root, or fusermount3, is needed): {why}"))
    }

    /// An empty disk, mounted at a folder, which is made if need be.
    ///
    /// # Errors
    /// No FUSE here, the folder can't be made, or the program that serves it is not built.
    pub fn mount(at: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(Binary::LossyDisk.path()?);
        // What ends this process by its group must leave it time to unmount.
        command.arg(at).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("starting the process that serves a lossy disk")?;
        let line = child.stdin.take().zip(child.stdout.take().map(BufReader::new));
        let disk = Self { at: at.to_owned(), child, line: Mutex::new(line) };
        match disk.ask(&Request::Mount)? {
            Reply::Done => Ok(disk),
            other => bail!("the lossy disk answered {other:?}"),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn at(&self) -> &Path {
        &self.at
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, replies) = line.as_mut().context("it has no pipes")?;
        let mut answer = String::new();
        writeln!(requests, "{}", serde_json::to_string(request)?)?;
        requests.flush()?;
        replies.read_line(&mut answer)?;
        match serde_json::from_str(&answer).with_context(|| format!("it answered {answer:?}"))? {
            Reply::Failed(why) => bail!(why),
            reply => Ok(reply),
        }
    }

    fn told(&self, request: &Request) -> Reply {
        self.ask(request).expect("the process of a lossy disk lives as long as its owner and takes every order")
    }

    /// The power goes and comes back: what was not synced is gone, but for what `tear` leaves. Settings stay as they are.
    pub fn power_cut(&self, tear: Tear) -> Cut {
        if let Reply::Cut(cut) = self.told(&Request::PowerCut(tear)) { cut } else { Cut::default() }
    }

    /// An fsync from now on says yes and does nothing: the negative control of a power cut.
    pub fn ignore_sync(&self, ignore: bool) {
        self.told(&Request::IgnoreSync(ignore));
    }

    /// An fsync from now on fails with EIO. As with Linux, what it should have written then counts as clean: the next
    /// fsync says yes and does not write it, programs go on reading it as long as the kernel has it in its page cache, and the disk
    /// has what was there before.
    pub fn fail_sync(&self, fail: bool) {
        self.told(&Request::FailSync(fail));
    }

    /// So many bytes (whole pages of 4 KiB) may still be written, then writes fail with ENOSPC; what is deleted or shortened
    /// makes room. `None` is no limit. statfs(2) shows it.
    pub fn set_room(&self, room: Option<u64>) {
        self.told(&Request::SetRoom(room));
    }

    /// Every fsync takes this long from now on, also those under way; everything else goes on meanwhile.
    pub fn slow_sync(&self, delay: Duration) {
        self.told(&Request::SlowSync(delay));
    }

    /// Every file, relative to where it is mounted, and its length.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        if let Reply::Files(files) = self.told(&Request::Files) { files } else { Vec::new() }
    }

    /// Flips bit 0 to 7 of a byte, also under the processes that run: on the disk, and in what the kernel keeps of it.
    ///
    /// # Errors
    /// There is no such file, or it is shorter.
    pub fn flip_bit(&self, path: &Path, at: u64, bit: u8) -> anyhow::Result<()> {
        self.ask(&Request::FlipBit { path: path.to_owned(), at, bit }).map(|_| ())
    }

    /// Fsyncs so far, of files and folders.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        if let Reply::Syncs(syncs) = self.told(&Request::Syncs) { syncs } else { 0 }
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        // The end of its input is its order to unmount and end.
        drop(self.line.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.child.wait();
    }
}
