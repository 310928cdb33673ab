//! The admin socket: who may own it, who may open it, how many at once and for how long. Knows nothing of HTTP.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use iris_protocol::admin::SOCKET_NAME;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Held by a running node for as long as it owns the data folder. The system lets go of it however the process ends.
const LOCK_NAME: &str = "iris.lock";

/// Bytes a socket's path may have: macOS allows the fewest, 104 with the zero at the end (Linux 108).
const SOCKET_PATH_LEN_MAX: usize = 103;

/// Operators' connections at once: a console, a desktop and some scripts. More wait to be accepted.
const CONNECTIONS_MAX: usize = 32;

/// Longest life of a connection. Clients open one per request; this only frees the place of one that hangs.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(60);

/// Before accepting again when the system has no more files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The bound socket, and with it the right to the data folder.
#[derive(Debug)]
pub struct AdminListener {
    socket: UnixListener,
    path: PathBuf,
    room: Arc<Semaphore>,
    /// Dropped last: the file of the socket is gone before another node can make its own.
    _lock: File,
}

/// Takes the data folder for this process and listens at its admin socket. Needs a tokio runtime.
///
/// # Errors
/// Another node runs with this folder, or the folder can't be used: the sentence says what to do.
pub fn bind(data: &Path) -> anyhow::Result<AdminListener> {
    let lock = lock(data)?;
    let path = data.join(SOCKET_NAME);
    let len = path.as_os_str().len();
    if len > SOCKET_PATH_LEN_MAX {
        bail!(
            "the admin socket {} would have a path of {len} bytes, the system allows {SOCKET_PATH_LEN_MAX}; choose a shorter --data",
            path.display()
        );
    }
    remove_stale(&path)?;
    let socket =
        UnixListener::bind(&path).with_context(|| format!("can't make the admin socket {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .with_context(|| format!("can't make the admin socket {} private", path.display()))?;
    Ok(AdminListener { socket, path, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)), _lock: lock })
}

/// Keeps nodes off a data folder until it is dropped; makes nothing in a folder where none ever ran.
///
/// # Errors
/// A node runs with it, none ever did, or the folder can't be used.
pub fn take_data_folder(data: &Path) -> anyhow::Result<File> {
    let path = data.join(LOCK_NAME);
    let file = File::open(&path).with_context(|| {
        format!("can't open {}; is {} the data folder of a node, and yours?", path.display(), data.display())
    })?;
    lock_file(file, data, &path)
}

fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join(LOCK_NAME);
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("can't open {}; is the data folder there, and yours?", path.display()))?;
    lock_file(file, data, &path)
}

fn lock_file(file: File, data: &Path, path: &Path) -> anyhow::Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another node runs with the data folder {}; stop it first, or choose another folder with --data",
            data.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}

/// Removes what a node that was killed has left. The lock says that no node of ours is there; should anyone answer all the
/// same (a version without the lock), it is left alone.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't look at {}", path.display())),
    };
    if !kind.is_socket() {
        bail!("{} is in the way and no socket; move it elsewhere", path.display());
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another node answers at {}; stop it first, or choose another folder with --data", path.display());
    }
    fs::remove_file(path).with_context(|| format!("can't remove the old socket {}", path.display()))
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, socket = %self.path.display(), "the admin socket was already gone");
        }
    }
}

impl axum::serve::Listener for AdminListener {
    type Io = AdminConnection;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Never closed, so never an error; waiting is then as good as anything.
            let Ok(room) = self.room.clone().acquire_owned().await else { return std::future::pending().await };
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    let life = Box::pin(tokio::time::sleep(CONNECTION_LIFE_MAX));
                    return (AdminConnection { stream, life, _room: room }, ());
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin socket can't accept a connection; tried again");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(())
    }
}

/// One operator's connection.
#[derive(Debug)]
pub struct AdminConnection {
    stream: UnixStream,
    life: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl AdminConnection {
    fn check_life(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.life.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for AdminConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_life(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for AdminConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_life(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
