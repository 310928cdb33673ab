//! One node as a process of this machine: start, kill -9, SIGTERM, what the kernel says of it. Owns the child; it dies with
//! its owner, by its own id.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use iris_client::NodeId;
use rustix::process::{Pid, Signal, kill_process};

use crate::place::Place;
use crate::ports::Port;
use crate::wait::wait_for;

/// Lines of a node's log shown when a test fails.
const TAIL_LINES: usize = 40;

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident bytes now.
    pub rss_bytes: u64,
    /// Most resident bytes since the start.
    pub rss_peak_bytes: u64,
}

/// A node: its folder, its ports, and its process when it runs.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its number in the cluster.
    pub id: NodeId,
    /// Its data folder.
    pub data: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Where its output goes, all runs one after the other.
    pub log: PathBuf,
    /// For clients.
    pub client_port: Port,
    /// For peers.
    pub p2p_port: Port,
    /// A file with a join token to start with.
    pub join: Option<PathBuf>,
    child: Option<Child>,
    // Behind the child: its machine goes after it.
    place: Place,
}

impl NodeProcess {
    /// A node that has not been started, in `dir`, to run at `place`.
    ///
    /// # Errors
    /// No ports, or the folder can't be made.
    pub fn new(id: NodeId, dir: &Path, place: Place) -> anyhow::Result<Self> {
        let data = dir.join(format!("node-{id}"));
        std::fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
        Ok(Self {
            id,
            config: dir.join(format!("node-{id}.toml")),
            log: dir.join(format!("node-{id}.log")),
            data,
            client_port: place.client_port()?,
            p2p_port: place.p2p_port()?,
            join: None,
            child: None,
            place,
        })
    }

    /// Where it runs.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Sets a variable of the environment it is started with from now on.
    pub fn set_environment(&mut self, name: &str, value: impl Into<OsString>) {
        self.place.set_environment(name, value.into());
    }

    /// Its process's number, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it; returns at once.
    ///
    /// # Errors
    /// It runs already, or the program can't be run.
    pub fn start(&mut self, program: &Path) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("node {} runs already", self.id);
        }
        let output = self.open_log()?;
        self.client_port.release();
        self.p2p_port.release();
        let mut command = self.place.command(program);
        command.arg("up").arg("--config").arg(&self.config).env("RUST_BACKTRACE", "1");
        if let Some(token) = &self.join {
            command.arg("--join").arg(format!("@{}", token.display()));
        }
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        self.child = Some(command.spawn().with_context(|| format!("running {}", program.display()))?);
        Ok(())
    }

    fn open_log(&self) -> anyhow::Result<File> {
        let opened = OpenOptions::new().create(true).append(true).open(&self.log);
        opened.with_context(|| format!("opening {}", self.log.display()))
    }

    /// Whether it was started and not ended by the harness.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it ended by itself.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended_by_itself(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    fn child(&self) -> anyhow::Result<&Child> {
        self.child.as_ref().with_context(|| format!("node {} does not run", self.id))
    }

    /// Sends SIGKILL and returns at once; [`Self::reap`] must follow.
    ///
    /// # Errors
    /// It does not run.
    pub fn send_kill9(&mut self) -> anyhow::Result<()> {
        let id = self.id;
        self.child.as_mut().with_context(|| format!("node {id} does not run"))?.kill()?;
        Ok(())
    }

    /// Waits for the end of a process that was killed, and holds its ports.
    ///
    /// # Errors
    /// It had ended before it was killed: then the test killed a corpse.
    pub fn reap(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { bail!("node {} does not run", self.id) };
        let status = child.wait()?;
        self.client_port.hold();
        self.p2p_port.hold();
        if status.signal() != Some(Signal::KILL.as_raw()) {
            bail!("node {} was not running any more when it was killed: {status}\n{}", self.id, self.log_tail());
        }
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// It does not run, or the deadline passed.
    pub async fn terminate(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        kill_process(Pid::from_child(self.child()?), Signal::TERM)?;
        self.wait_ended(deadline).await.context("after SIGTERM")
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not run, or the deadline passed.
    pub async fn wait_ended(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("node {} to end by itself", self.id);
        let ended = wait_for(&what, deadline, async || match self.ended_by_itself() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".into()),
            Err(error) => Err(format!("{error:#}").into()),
        });
        let status = ended.await.map_err(|error| error.context(self.log_tail()))?;
        self.child = None;
        self.client_port.hold();
        self.p2p_port.hold();
        Ok(status)
    }

    /// Puts its data folder aside, all save its key, until [`Self::put_back`].
    ///
    /// # Errors
    /// It runs, or the system's.
    pub fn set_aside(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "node {} runs", self.id);
        std::fs::rename(&self.data, self.aside())?;
        std::fs::create_dir(&self.data)?;
        std::fs::copy(self.aside().join("identity.key"), self.data.join("identity.key"))?;
        Ok(())
    }

    /// Puts back what was put aside; what is there meanwhile goes.
    ///
    /// # Errors
    /// It runs, or the system's.
    pub fn put_back(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "node {} runs", self.id);
        std::fs::remove_dir_all(&self.data)?;
        Ok(std::fs::rename(self.aside(), &self.data)?)
    }

    fn aside(&self) -> PathBuf {
        self.data.with_extension("aside")
    }

    /// Removes everything in its data folder save its key: what is left when a disk is replaced and the key was kept.
    ///
    /// # Errors
    /// It runs, or the folder can't be emptied.
    pub fn empty_disk(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "node {} runs", self.id);
        for entry in std::fs::read_dir(&self.data)? {
            let (entry, key) = (entry?, std::ffi::OsStr::new("identity.key"));
            match entry.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(entry.path())?,
                false if entry.file_name() == key => {}
                false => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Stops it in the middle of whatever it does, until [`Self::wake`].
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(self.child()?), Signal::STOP)?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn wake(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(self.child()?), Signal::CONT)?)
    }

    /// Whether its log has this text.
    #[must_use]
    pub fn has_logged(&self, text: &str) -> bool {
        std::fs::read(&self.log).is_ok_and(|log| String::from_utf8_lossy(&log).contains(text))
    }

    /// The first number behind this text in its log.
    #[must_use]
    pub fn logged_behind(&self, text: &str) -> Option<u64> {
        let log = std::fs::read(&self.log).ok()?;
        let log = String::from_utf8_lossy(&log);
        let (_, rest) = log.split_once(text)?;
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        rest[..digits].parse().ok()
    }

    /// How often its log has this text.
    #[must_use]
    pub fn count_logged(&self, text: &str) -> usize {
        std::fs::read(&self.log).map_or(0, |log| String::from_utf8_lossy(&log).matches(text).count())
    }

    /// Bytes of all files below a folder of its data; 0 if there is none.
    #[must_use]
    pub fn disk_bytes(&self, folder: &str) -> u64 {
        fn below(path: &Path) -> u64 {
            let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
            // A file may go between the listing and the look.
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            if meta.is_dir() { entries.map(|entry| below(&entry.path())).sum() } else { meta.len() }
        }
        below(&self.data.join(folder))
    }

    /// What the kernel says of its memory.
    ///
    /// # Errors
    /// It does not run, or the kernel does not say.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let path = format!("/proc/{}/status", self.child()?.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024).with_context(|| format!("no {field} in {path}"))
        };
        Ok(Usage { rss_bytes: bytes("VmRSS:")?, rss_peak_bytes: bytes("VmHWM:")? })
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("--- node {}, the last lines of {}:\n{tail}", self.id, self.log.display())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way there is nobody left to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
