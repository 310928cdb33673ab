//! What the owner of a disk says to the process that serves it: a line of JSON each way. Owns both ends' words.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::served::ServedDisk;
use super::{Cut, Tear};

/// An order; each is a method of the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The first.
    Mount,
    PowerCut(Tear),
    IgnoreSync(bool),
    FailSync(bool),
    SetRoom(Option<u64>),
    SlowSync(Duration),
    Files,
    FlipBit {
        path: PathBuf,
        at: u64,
        bit: u8,
    },
    Syncs,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Failed(String),
    Cut(Cut),
    Files(Vec<(PathBuf, u64)>),
    Syncs(u64),
}

/// Serves a disk at a folder for whoever writes to `requests`, until that ends.
///
/// # Errors
/// There is nobody to answer.
pub fn serve(at: &Path, requests: impl BufRead, mut replies: impl Write) -> anyhow::Result<()> {
    let mut disk = None;
    for line in requests.lines() {
        let request = serde_json::from_str(&line.context("reading an order")?)?;
        let reply = obey(&mut disk, at, request).unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
        writeln!(replies, "{}", serde_json::to_string(&reply)?)?;
        replies.flush()?;
    }
    Ok(())
}

fn obey(disk: &mut Option<ServedDisk>, at: &Path, request: Request) -> anyhow::Result<Reply> {
    if let Request::Mount = request {
        *disk = Some(ServedDisk::mount(at)?);
        return Ok(Reply::Done);
    }
    let Some(disk) = disk else { bail!("it is not mounted") };
    match request {
        Request::Mount => {}
        Request::PowerCut(tear) => return Ok(Reply::Cut(disk.power_cut(tear))),
        Request::IgnoreSync(ignore) => disk.ignore_sync(ignore),
        Request::FailSync(fail) => disk.fail_sync(fail),
        Request::SetRoom(room) => disk.set_room(room),
        Request::SlowSync(delay) => disk.slow_sync(delay),
        Request::Files => return Ok(Reply::Files(disk.files())),
        Request::FlipBit { path, at, bit } => disk.flip_bit(&path, at, bit)?,
        Request::Syncs => return Ok(Reply::Syncs(disk.syncs())),
    }
    Ok(Reply::Done)
}
