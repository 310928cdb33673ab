//! What no relay on this machine can be faster than: the same bytes appended to a plain file and fsynced, as many writers
//! sharing one fsync as there are senders; and a round trip over loopback TCP.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::latency::Latencies;

/// Appends waiting for the writer.
const QUEUE_LEN: usize = 4_096;

/// What a floor came to.
#[derive(Debug, Clone)]
pub struct Floor {
    /// Appends, or round trips, a second.
    pub per_s: f64,
    /// How long each took.
    pub latencies: Latencies,
    /// Fsyncs per append; 0 for round trips.
    pub fsyncs_per_append: f64,
}

/// One append: answered once it is on disk.
type Append = oneshot::Sender<()>;

/// `writers` tasks append `bytes` each, `depth` at a time, through one thread that writes what waits and fsyncs once.
///
/// # Errors
/// The disk's.
pub async fn fsync(dir: &Path, writers: usize, depth: usize, bytes: usize, run: Duration) -> anyhow::Result<Floor> {
    let path = dir.join("floor");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
    let file = file.with_context(|| format!("making {}", path.display()))?;
    let (queue, waiting) = mpsc::channel::<Append>(QUEUE_LEN);
    let disk = std::thread::spawn(move || write_and_sync(file, waiting, bytes));
    let (mut tasks, start) = (JoinSet::new(), Instant::now());
    for _ in 0..writers * depth {
        let queue = queue.clone();
        tasks.spawn(async move {
            let mut latencies = Latencies::new()?;
            while start.elapsed() < run {
                let (done, durable) = oneshot::channel();
                let began = Instant::now();
                queue.send(done).await.ok().context("the writer is gone")?;
                durable.await.context("the writer failed")?;
                latencies.record(began.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    drop(queue);
    let mut latencies = Latencies::new()?;
    while let Some(task) = tasks.join_next().await {
        latencies.add(&task??)?;
    }
    let took = start.elapsed();
    let joined = tokio::task::spawn_blocking(move || disk.join()).await?;
    let fsyncs = joined.map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    std::fs::remove_file(&path)?;
    let appends = latencies.count() as f64;
    Ok(Floor { per_s: appends / took.as_secs_f64(), latencies, fsyncs_per_append: fsyncs as f64 / appends.max(1.0) })
}

fn write_and_sync(mut file: File, mut waiting: mpsc::Receiver<Append>, bytes: usize) -> anyhow::Result<u64> {
    let body = vec![0x5a; bytes];
    let (mut fsyncs, mut group, mut buffer) = (0, Vec::new(), Vec::new());
    while let Some(first) = waiting.blocking_recv() {
        group.push(first);
        while let Ok(next) = waiting.try_recv() {
            group.push(next);
        }
        buffer.clear();
        group.iter().for_each(|_| buffer.extend_from_slice(&body));
        file.write_all(&buffer)?;
        file.sync_data()?;
        fsyncs += 1;
        for append in group.drain(..) {
            // A sender that went away does not want to know.
            let _ = append.send(());
        }
    }
    Ok(fsyncs)
}

/// One connection over loopback, `bytes` there and back, one at a time.
///
/// # Errors
/// The network's.
pub async fn round_trip(bytes: usize, run: Duration) -> anyhow::Result<Floor> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; bytes];
        while stream.read_exact(&mut buffer).await.is_ok() {
            stream.write_all(&buffer).await?;
        }
        anyhow::Ok(())
    });
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut latencies, mut buffer, start) = (Latencies::new()?, vec![0; bytes], Instant::now());
    while start.elapsed() < run {
        let began = Instant::now();
        stream.write_all(&buffer).await?;
        stream.read_exact(&mut buffer).await?;
        latencies.record(began.elapsed());
    }
    let took = start.elapsed();
    drop(stream);
    echo.await??;
    Ok(Floor { per_s: latencies.count() as f64 / took.as_secs_f64(), latencies, fsyncs_per_append: 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_writers_share_an_fsync() {
        let dir = tempfile::tempdir().unwrap();
        let run = Duration::from_millis(300);
        let one = fsync(dir.path(), 1, 1, 256, run).await.unwrap();
        let many = fsync(dir.path(), 32, 1, 256, run).await.unwrap();
        assert!((one.fsyncs_per_append - 1.0).abs() < 0.01, "{}", one.fsyncs_per_append);
        assert!(many.fsyncs_per_append < 0.8, "{}", many.fsyncs_per_append);
        assert!(round_trip(256, run).await.unwrap().latencies.count() > 10);
    }
}
