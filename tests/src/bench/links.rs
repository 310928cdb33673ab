//! What bulk does to the small calls beside it on one link between nodes: round trips of 100 bytes on one stream while another
//! stream carries bulk, without limit and under a window of acknowledged chunks. Real links over loopback, each node
//! with a runtime of its own. It is why snapshots travel under a window (design: Peers).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use iris_p2p::{Identity, Inbound, LinkConfig, Links, LinksTask, Member, PeerAddr, PeerKey, PeerStream, StreamKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::latency::Latencies;
use crate::wait::within;

const PING_BYTES: usize = 100;
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks on their way without an acknowledgement.
const WINDOWS: [usize; 3] = [4, 2, 1];
/// Between a call and the next: a sender that never pauses measures the scheduler.
const PAUSE: Duration = Duration::from_micros(500);
const UP_WITHIN: Duration = Duration::from_secs(10);

const PING: StreamKind = StreamKind(1);
const FLOOD: StreamKind = StreamKind(2);
const WINDOWED: StreamKind = StreamKind(3);

/// What runs beside the small calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: the base of the ratios.
    Nothing,
    /// As much as the link takes.
    Flood,
    /// At most so many chunks that were not acknowledged.
    Window(usize),
}

/// One measured case.
#[derive(Debug, Clone)]
pub struct LinkRow {
    /// What it ran on.
    pub transport: &'static str,
    /// What ran beside the small calls.
    pub beside: Beside,
    /// Round trips of the small calls.
    pub latencies: Latencies,
    /// Bytes a second of the other stream.
    pub bulk_per_s: f64,
}

/// Measures TCP and QUIC, `run` for each figure.
///
/// # Errors
/// The links did not come up or broke.
pub async fn measure(run: Duration) -> anyhow::Result<Vec<LinkRow>> {
    let mut rows = Vec::new();
    for (transport, listen) in [("TCP, noise, yamux", "127.0.0.1:0"), ("QUIC", "/ip4/127.0.0.1/udp/0/quic-v1")] {
        let pair = Pair::start(listen.parse()?).await?;
        for beside in [Beside::Nothing, Beside::Flood].into_iter().chain(WINDOWS.map(Beside::Window)) {
            let (latencies, bulk_per_s) = Box::pin(pair.figure(beside, run)).await?;
            rows.push(LinkRow { transport, beside, latencies, bulk_per_s });
        }
        pair.stop();
    }
    Ok(rows)
}

/// Renders them as Markdown.
#[must_use]
pub fn render(rows: &[LinkRow]) -> String {
    let mut out = format!(
        "\n## A link under bulk\n\nRound trips of {PING_BYTES} bytes on one stream of a link, while another stream of the same link carries nothing, as much as it can, or \
         a window of 4, 2 or 1 chunks of {} KiB that the other side has not acknowledged.\n\n\
         | transport | bulk | bulk MB/s | p50 us | p99 us | p50 to idle | p99 to idle |\n|---|---|---|---|---|---|---|\n",
        CHUNK_BYTES / 1024
    );
    let us = |row: &LinkRow, percent| row.latencies.percentile_ms(percent) * 1_000.0;
    for row in rows {
        let idle = rows.iter().find(|base| base.transport == row.transport && base.beside == Beside::Nothing);
        let ratio = |percent| us(row, percent) / idle.map_or(f64::NAN, |idle| us(idle, percent)).max(1.0);
        let name = match row.beside {
            Beside::Nothing => "none".to_owned(),
            Beside::Flood => "unlimited".to_owned(),
            Beside::Window(chunks) => format!("window of {chunks}"),
        };
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| {} | {name} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} |",
            row.transport,
            row.bulk_per_s / 1e6,
            us(row, 50.0),
            us(row, 99.0),
            ratio(50.0),
            ratio(99.0),
        );
    }
    out
}

/// Two linked nodes; the far one answers from a runtime of its own.
struct Pair {
    near: Links,
    near_task: JoinHandle<()>,
    far: PeerKey,
    far_runtime: Runtime,
}

impl Pair {
    async fn start(listen: PeerAddr) -> anyhow::Result<Pair> {
        let far_runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (near_identity, far_identity) = (Identity::ephemeral(), Identity::ephemeral());
        let far = far_identity.peer_id();
        let caller = Member { key: near_identity.peer_id(), addrs: Vec::new() };
        let config = LinkConfig { listen: vec![listen], ..LinkConfig::default() };
        let (told, addrs) = oneshot::channel();
        far_runtime.spawn(async move {
            // Whoever waits for the addresses learns of a failure by not getting any.
            if let Ok((links, inbound, task)) = Links::start(far_identity, config, vec![caller]).await {
                let _ = told.send(links.listen_addrs());
                tokio::join!(keep(links, task), answer(inbound));
            }
        });
        let member = Member { key: far, addrs: addrs.await.context("the far node did not start")? };
        let (near, _, task) = Links::start(near_identity, LinkConfig::default(), vec![member]).await?;
        let near_task = tokio::spawn(async move {
            // It ends with its handle.
            let _ = task.run().await;
        });
        let mut states = near.watch();
        within("the link", UP_WITHIN, states.wait_for(|states| states.is_up(far))).await??;
        Ok(Pair { near, near_task, far, far_runtime })
    }

    async fn figure(&self, beside: Beside, run: Duration) -> anyhow::Result<(Latencies, f64)> {
        let until = Instant::now() + run;
        let pings = pings(self.near.open(self.far, PING).await?, until);
        let (kind, window) = match beside {
            Beside::Nothing => return Ok((pings.await?, 0.0)),
            Beside::Flood => (FLOOD, usize::MAX),
            Beside::Window(chunks) => (WINDOWED, chunks),
        };
        let bulk = tokio::spawn(bulk(self.near.open(self.far, kind).await?, window, until));
        let latencies = pings.await?;
        Ok((latencies, bulk.await?? as f64 / run.as_secs_f64()))
    }

    fn stop(self) {
        self.near_task.abort();
        self.far_runtime.shutdown_background();
    }
}

async fn keep(links: Links, task: LinksTask) {
    let _ = task.run().await;
    drop(links);
}

async fn pings(mut stream: PeerStream, until: Instant) -> anyhow::Result<Latencies> {
    let (mut latencies, mut buffer) = (Latencies::new()?, [7; PING_BYTES]);
    let mut pause = tokio::time::interval(PAUSE);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while Instant::now() < until {
        pause.tick().await;
        let began = Instant::now();
        stream.write_all(&buffer).await?;
        stream.flush().await?;
        stream.read_exact(&mut buffer).await?;
        latencies.record(began.elapsed());
    }
    Ok(latencies)
}

/// Sends chunks, and waits for acknowledgements only when the window is full. Returns the bytes sent.
async fn bulk(stream: PeerStream, window: usize, until: Instant) -> anyhow::Result<u64> {
    let (mut acks, mut stream) = tokio::io::split(stream);
    let (chunk, mut unacked, mut sent) = (vec![0x5a; CHUNK_BYTES], 0, 0);
    while Instant::now() < until {
        while unacked >= window {
            acks.read_u8().await?;
            unacked -= 1;
        }
        stream.write_all(&chunk).await?;
        stream.flush().await?;
        unacked += 1;
        sent += CHUNK_BYTES as u64;
    }
    Ok(sent)
}

async fn answer(mut inbound: Inbound) {
    while let Some((_, kind, stream)) = inbound.accept().await {
        // It ends when the near side drops the stream.
        tokio::spawn(async move {
            let _ = serve(kind, stream).await;
        });
    }
}

async fn serve(kind: StreamKind, stream: PeerStream) -> anyhow::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = vec![0; if kind == PING { PING_BYTES } else { CHUNK_BYTES }];
    loop {
        reader.read_exact(&mut buffer).await?;
        match kind {
            PING => writer.write_all(&buffer).await?,
            WINDOWED => writer.write_u8(1).await?,
            _ => continue,
        }
        writer.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_transports_are_measured_and_every_row_has_its_ratio() {
        let rows = measure(Duration::from_millis(200)).await.unwrap();
        assert!(rows.iter().all(|row| row.latencies.count() > 0));
        assert!(rows.iter().all(|row| (row.bulk_per_s > 0.0) == (row.beside != Beside::Nothing)));
        let text = render(&rows);
        let columns: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [8; 12], "{text}");
        assert!(text.contains("| QUIC | none | 0 |") && text.contains("| 1.0 | 1.0 |"), "{text}");
    }
}
