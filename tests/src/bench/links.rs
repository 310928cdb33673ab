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
const WINDOW: usize = 4;
/// Between a call and the next: a sender that never pauses measures the scheduler.
const PAUSE: Duration = Duration::from_micros(500);
const UP_WITHIN: Duration = Duration::from_secs(10);

const PING: StreamKind = StreamKind(1);
const FLOOD: StreamKind = StreamKind(2);
const WINDOWED: StreamKind = StreamKind(3);

/// What runs beside the small calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Bulk(StreamKind),
}

/// One measured transport.
#[derive(Debug, Clone)]
pub struct LinkRow {
    /// Its name.
    pub transport: &'static str,
    /// Round trips without bulk.
    pub idle: Latencies,
    /// Beside bulk without limit, and the bulk's bytes a second.
    pub flood: (Latencies, f64),
    /// Beside bulk under the window, and the bulk's bytes a second.
    pub windowed: (Latencies, f64),
}

/// Measures TCP and QUIC, `run` for each figure.
///
/// # Errors
/// The links did not come up or broke.
pub async fn measure(run: Duration) -> anyhow::Result<Vec<LinkRow>> {
    let mut rows = Vec::new();
    for (transport, listen) in [("TCP, noise, yamux", "127.0.0.1:0"), ("QUIC", "/ip4/127.0.0.1/udp/0/quic-v1")] {
        let pair = Pair::start(listen.parse()?).await?;
        let (idle, _) = Box::pin(pair.figure(Beside::Nothing, run)).await?;
        let flood = Box::pin(pair.figure(Beside::Bulk(FLOOD), run)).await?;
        let windowed = Box::pin(pair.figure(Beside::Bulk(WINDOWED), run)).await?;
        rows.push(LinkRow { transport, idle, flood, windowed });
        pair.stop();
    }
    Ok(rows)
}

/// Renders them as Markdown.
#[must_use]
pub fn render(rows: &[LinkRow]) -> String {
    let mut out = format!(
        "\n## A link under bulk\n\nRound trips of {PING_BYTES} bytes on one stream of a link, while another stream of the same link carries nothing, as much as it can, or \
         at most {WINDOW} chunks of {} KiB that the other side has not acknowledged.\n\n\
         | transport | bulk | bulk MB/s | p50 us | p99 us | p50 to idle | p99 to idle |\n|---|---|---|---|---|---|---|\n",
        CHUNK_BYTES / 1024
    );
    for row in rows {
        let us = |latencies: &Latencies, percent| latencies.percentile_ms(percent) * 1_000.0;
        let nothing = (row.idle.clone(), 0.0);
        for (name, (latencies, per_s)) in [("none", &nothing), ("unlimited", &row.flood), ("window", &row.windowed)] {
            let (p50, p99) = (us(latencies, 50.0), us(latencies, 99.0));
            // Writing to a String can't fail.
            let _ = writeln!(
                out,
                "| {} | {name} | {:.0} | {p50:.0} | {p99:.0} | {:.1} | {:.1} |",
                row.transport,
                per_s / 1e6,
                p50 / us(&row.idle, 50.0).max(1.0),
                p99 / us(&row.idle, 99.0).max(1.0),
            );
        }
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
        match beside {
            Beside::Nothing => Ok((pings.await?, 0.0)),
            Beside::Bulk(kind) => {
                let stream = self.near.open(self.far, kind).await?;
                let window = if kind == WINDOWED { WINDOW } else { usize::MAX };
                let bulk = tokio::spawn(bulk(stream, window, until));
                let latencies = pings.await?;
                Ok((latencies, bulk.await?? as f64 / run.as_secs_f64()))
            }
        }
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
        assert!(rows.iter().all(|row| row.idle.count() > 10 && row.flood.0.count() > 0 && row.windowed.0.count() > 10));
        assert!(rows.iter().all(|row| row.flood.1 > 0.0 && row.windowed.1 > 0.0));
        let text = render(&rows);
        let columns: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [8; 8], "{text}");
        assert!(text.contains("| QUIC | none | 0 |") && text.contains("| 1.0 | 1.0 |"), "{text}");
    }
}
