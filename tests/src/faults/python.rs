//! The Python client as a writer and a reader of the battery: a second implementation of the protocol, written from its
//! description alone. Its processes end with their handles.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use iris_client::{EntryId, MessageKey, Receipt, Status, UserId};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::binaries::workspace_root;
use crate::cluster::Cluster;
use crate::oracle::{BodyHash, Oracle, Seen};
use crate::traffic::Pace;
use crate::wait::{NotYet, wait_for, within};
use crate::workload::Message;

/// How long the client tries to send one message: longer than any fault lasts.
const SEND_DEADLINE_S: u32 = 900;

/// Why there is no Python client here, if there is none.
#[must_use]
pub fn unavailable() -> Option<String> {
    let tried = std::process::Command::new("python3").args(["-c", "import ssl"]).stderr(Stdio::null()).status();
    match tried {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("`python3 -c 'import ssl'` ended with {status}")),
        Err(error) => Some(format!("python3 can't be run: {error}")),
    }
}

/// A command of the client as `user`; what it says besides goes to a file.
async fn command(cluster: &Cluster, user: &UserId, verb: &str, errors: &Path) -> anyhow::Result<Command> {
    let ca = cluster.dir().join("ca-for-python.pem");
    std::fs::write(&ca, cluster.ca_pem()?).with_context(|| format!("writing {}", ca.display()))?;
    let mut command = Command::new("python3");
    command.args(["-m", "iris_client", verb, "--connect", &cluster.addresses().join(","), "--ca"]).arg(ca);
    command.env("PYTHONPATH", workspace_root().join("clients/python"));
    // Never beside its sources: the checkout stays as it is.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("IRIS_TOKEN", cluster.token(user).await?);
    let errors = File::create(errors).with_context(|| format!("writing {}", errors.display()))?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
    Ok(command)
}

fn lines(child: &mut Child) -> anyhow::Result<Lines<BufReader<ChildStdout>>> {
    Ok(BufReader::new(child.stdout.take().context("no output")?).lines())
}

/// One device that writes.
#[derive(Debug)]
pub struct Writer {
    feeding: JoinHandle<anyhow::Result<()>>,
    answers: JoinHandle<anyhow::Result<()>>,
    child: Child,
    errors: PathBuf,
    stop: watch::Sender<bool>,
}

impl Writer {
    /// Sends all messages as `user`, or until it is stopped; the oracle hears of every intent and every answer.
    ///
    /// # Errors
    /// It can't be run.
    pub async fn start(
        cluster: &Cluster,
        oracle: &Arc<Oracle>,
        user: &UserId,
        pace: Arc<Pace>,
        messages: impl Iterator<Item = Message> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let errors = cluster.dir().join(format!("python-writer-{user}.log"));
        let mut command = command(cluster, user, "send", &errors).await?;
        command.args(["--device", "python-writer", "--in", "-", "--deadline-s", &SEND_DEADLINE_S.to_string()]);
        let mut child = command.spawn().context("running python3")?;
        let output = lines(&mut child)?;
        let input = child.stdin.take().context("no input")?;
        let (stop, stopped) = watch::channel(false);
        let feeding = tokio::spawn(feed(input, Arc::clone(oracle), user.clone(), pace, messages, stopped));
        let answers = tokio::spawn(settle(output, Arc::clone(oracle), user.clone()));
        Ok(Self { feeding, answers, child, errors, stop })
    }

    /// Sends no more, waits for every answer.
    ///
    /// # Errors
    /// It did not end well, or not in time.
    pub async fn finish(mut self, deadline: Duration) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let ended = async {
            let status = self.child.wait().await?;
            self.answers.await??;
            if status.success() {
                return self.feeding.await?;
            }
            self.feeding.abort();
            bail!("it ended with {status}: {}", tail(&self.errors))
        };
        within("the Python writer to have every answer", deadline, ended).await?.context("the Python writer")
    }
}

async fn feed(
    mut input: ChildStdin,
    oracle: Arc<Oracle>,
    user: UserId,
    pace: Arc<Pace>,
    messages: impl Iterator<Item = Message>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    for message in messages {
        pace.next().await;
        if *stop.borrow() {
            break;
        }
        // Lane 1: another device of a user who may send by the Rust client too.
        let outgoing = oracle.intend(&user, 1, &message.recipient, message.body);
        let line = json!({
            "to": outgoing.recipient.to_string(),
            "body_base64": BASE64.encode(&outgoing.body),
            "key": outgoing.key.to_string(),
        });
        input.write_all(format!("{line}\n").as_bytes()).await.context("it takes no more messages")?;
    }
    Ok(())
}

async fn settle(mut output: Lines<BufReader<ChildStdout>>, oracle: Arc<Oracle>, user: UserId) -> anyhow::Result<()> {
    while let Some(line) = output.next_line().await? {
        let line: Value = serde_json::from_str(&line).with_context(|| format!("a receipt: {line}"))?;
        let duplicate = line["duplicate"].as_bool().context("a receipt without `duplicate`")?;
        let receipt = Receipt { id: id_of(&line)?, duplicate, status: Status::Committed };
        oracle.settle(&user, key_of(&line)?, &Ok(receipt));
    }
    Ok(())
}

/// One device that follows an inbox.
#[derive(Debug)]
pub struct Reader {
    user: UserId,
    seen: Arc<Mutex<Vec<Seen>>>,
    reading: JoinHandle<anyhow::Result<()>>,
    child: Child,
    errors: PathBuf,
}

impl Reader {
    /// Follows `user`'s inbox from its beginning and acks what it was shown.
    ///
    /// # Errors
    /// It can't be run.
    pub async fn start(cluster: &Cluster, user: &UserId) -> anyhow::Result<Self> {
        let errors = cluster.dir().join(format!("python-reader-{user}.log"));
        let mut command = command(cluster, user, "tail", &errors).await?;
        command.args(["--device", "python-reader", "--from", "0", "--follow", "--ack"]);
        let mut child = command.spawn().context("running python3")?;
        let output = lines(&mut child)?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reading = tokio::spawn(read(output, Arc::clone(&seen)));
        Ok(Self { user: user.clone(), seen, reading, child, errors })
    }

    /// Whose inbox.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Waits until it was shown so many entries, ends it, and returns them.
    ///
    /// # Errors
    /// It ended by itself, or the deadline passed.
    pub async fn finish(mut self, due: usize, deadline: Duration) -> anyhow::Result<(UserId, Vec<Seen>)> {
        let seen = Arc::clone(&self.seen);
        wait_for(&format!("the Python reader to be shown {due} entries"), deadline, async || {
            let shown = seen.lock().unwrap_or_else(PoisonError::into_inner).len();
            if shown >= due {
                return Ok(());
            }
            match self.child.try_wait() {
                Ok(None) => Err(format!("it was shown {shown}").into()),
                other => Err(NotYet::never(format!("it ended ({other:?}): {}", tail(&self.errors)))),
            }
        })
        .await?;
        self.child.kill().await.context("ending the Python reader")?;
        // What it had printed before it was ended was seen too.
        within("the Python reader's last lines", deadline, self.reading).await???;
        let entries = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((self.user, entries))
    }
}

async fn read(mut output: Lines<BufReader<ChildStdout>>, seen: Arc<Mutex<Vec<Seen>>>) -> anyhow::Result<()> {
    while let Some(line) = output.next_line().await? {
        // A line that its end cut in half is none.
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        let sender = line["sender"].as_str().context("an entry without a sender")?;
        let entry =
            Seen { id: id_of(&line)?, key: key_of(&line)?, sender: UserId::new(sender)?, hash: hash_of(&line)? };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
    Ok(())
}

fn id_of(line: &Value) -> anyhow::Result<EntryId> {
    line["id"].as_u64().map(EntryId).with_context(|| format!("no id in {line}"))
}

fn key_of(line: &Value) -> anyhow::Result<MessageKey> {
    let key = line["key"].as_str().and_then(|key| key.parse().ok());
    key.with_context(|| format!("no key in {line}"))
}

fn hash_of(line: &Value) -> anyhow::Result<BodyHash> {
    let text = line["sha256"].as_str().with_context(|| format!("no hash in {line}"))?;
    anyhow::ensure!(text.len() == 64 && text.is_ascii(), "{text} is no SHA-256");
    let mut hash = BodyHash::default();
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).with_context(|| format!("{text} is no hash"))?;
    }
    Ok(hash)
}

/// The end of what it said.
fn tail(errors: &Path) -> String {
    let text = std::fs::read_to_string(errors).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
