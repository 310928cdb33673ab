//! A `link_node` in a machine of a test network: its lines as they come, and waiting for one. Owns the process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use iris_p2p::{Identity, PeerKey};

use crate::binaries::Binary;
use crate::netns::Machine;
use crate::wait::wait_for;

/// A node's links, running.
#[derive(Debug)]
pub struct LinkProcess {
    key: PeerKey,
    child: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    // Keeps its identity's folder.
    _dir: Arc<tempfile::TempDir>,
}

/// A key and the file it lies in, before its node runs.
#[derive(Debug, Clone)]
pub struct LinkIdentity {
    key: PeerKey,
    dir: Arc<tempfile::TempDir>,
}

impl LinkIdentity {
    /// A new one.
    ///
    /// # Errors
    /// No room for its file.
    pub fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("iris-link-").tempdir()?;
        let key = Identity::load_or_create(&dir.path().join("node.key"))?.peer_id();
        Ok(Self { key, dir: Arc::new(dir) })
    }

    /// Its public half.
    #[must_use]
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// Runs its links in `machine`.
    ///
    /// # Errors
    /// The program is not built, or can't be run there.
    pub fn start(&self, machine: &Machine, arguments: &[&str]) -> anyhow::Result<LinkProcess> {
        let mut command = machine.command(&Binary::LinkNode.path()?);
        command.arg("--identity").arg(self.dir.path().join("node.key")).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("running link_node")?;
        let output = child.stdout.take().context("no output")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&lines);
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
            }
        });
        Ok(LinkProcess { key: self.key, child, lines, _dir: Arc::clone(&self.dir) })
    }
}

impl LinkProcess {
    /// Its public key.
    #[must_use]
    pub fn key(&self) -> PeerKey {
        self.key
    }

    /// What it has said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|(_, line)| line).collect()
    }

    /// How many files and sockets it has open, by the kernel's count.
    ///
    /// # Errors
    /// It does not run.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        let folder = format!("/proc/{}/fd", self.child.id());
        Ok(std::fs::read_dir(&folder).with_context(|| format!("reading {folder}"))?.count())
    }

    fn seen(&self) -> Vec<(Instant, String)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it says something that begins with `start` at or after `since`, and returns when it did.
    ///
    /// # Errors
    /// The deadline passed; shows what it did say.
    pub async fn says(&self, start: &str, since: Instant, deadline: Duration) -> anyhow::Result<Instant> {
        wait_for(&format!("`{start}` from {}", self.key), deadline, async || {
            let seen = self.seen();
            let found = seen.iter().find(|(at, line)| *at >= since && line.starts_with(start));
            match found {
                Some((at, _)) => Ok(*at),
                None => Err(format!("{seen:#?}").into()),
            }
        })
        .await
    }
}

impl Drop for LinkProcess {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
