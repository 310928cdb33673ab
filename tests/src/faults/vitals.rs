//! What a node uses, as the kernel and its disk say: sampled over a run, written as a table, and judged for growth. The judgement is
//! pure.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::cluster::Cluster;

/// One look at one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open files and sockets.
    pub files: u64,
    /// Threads.
    pub threads: u64,
    /// Bytes in its data folder.
    pub disk_bytes: u64,
}

/// One look at all nodes; none for one that does not run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Since the beginning of the run.
    pub at: Duration,
    /// Messages acked by then.
    pub acked: usize,
    /// By index.
    pub nodes: Vec<Option<Vitals>>,
}

/// Everything that was seen, in order.
#[derive(Debug, Default)]
pub struct Chart {
    /// In order.
    pub samples: Vec<Sample>,
}

/// Looks at one node.
///
/// # Errors
/// It does not run, or the kernel does not say.
pub fn look(cluster: &Cluster, index: usize) -> anyhow::Result<Vitals> {
    let node = cluster.node(index);
    let pid = node.pid().context("it does not run")?;
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).context("counting its files")?.count() as u64;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).context("counting its threads")?.count() as u64;
    let rss_bytes = node.usage()?.rss_bytes;
    // SQLite's log grows and is begun anew: it has a bound of its own instead ([`wal_bytes`]).
    let disk_bytes = node.disk_bytes("").saturating_sub(wal_bytes(cluster, index));
    Ok(Vitals { rss_bytes, files, threads, disk_bytes })
}

/// Most that SQLite's log may take: twice the length at which it is moved into the file, above which a commit waits for that.
pub const WAL_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Bytes of SQLite's log.
#[must_use]
pub fn wal_bytes(cluster: &Cluster, index: usize) -> u64 {
    cluster.node(index).disk_bytes("inboxes.db-wal")
}

/// How much more a node may use late in a run than it did once it was warm.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Every figure may be so many percent more.
    pub percent: u64,
    /// And memory so much besides: caches and the allocator's fragments.
    pub rss_bytes: u64,
    /// And files so many: connections on their way out.
    pub files: u64,
    /// And threads so many: the blocking pool breathes.
    pub threads: u64,
    /// And disk so much: a log file and a checkpoint that come and go.
    pub disk_bytes: u64,
    /// And disk so much for each message acked between: keys are kept for days.
    pub disk_bytes_each: u64,
}

impl Chart {
    /// Looks at all nodes.
    pub fn sample(&mut self, at: Duration, acked: usize, cluster: &Cluster) {
        let nodes = (0..cluster.len()).map(|index| look(cluster, index).ok()).collect();
        self.samples.push(Sample { at, acked, nodes });
    }

    /// The most any node ever used, of each.
    #[must_use]
    pub fn most(&self) -> Vitals {
        self.samples.iter().flat_map(|sample| sample.nodes.iter().flatten()).fold(Vitals::default(), |most, now| {
            Vitals {
                rss_bytes: most.rss_bytes.max(now.rss_bytes),
                files: most.files.max(now.files),
                threads: most.threads.max(now.threads),
                disk_bytes: most.disk_bytes.max(now.disk_bytes),
            }
        })
    }

    /// The middle value of a node in a stretch of the samples, of each figure; and the messages acked in the middle of it.
    fn middle(&self, node: usize, stretch: std::ops::Range<usize>) -> Option<(Vitals, usize)> {
        let stretch = self.samples.get(stretch)?;
        let seen: Vec<Vitals> = stretch.iter().filter_map(|sample| sample.nodes.get(node).copied().flatten()).collect();
        let middle = |figure: fn(&Vitals) -> u64| {
            let mut values: Vec<u64> = seen.iter().map(figure).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        let vitals = Vitals {
            rss_bytes: middle(|vitals| vitals.rss_bytes)?,
            files: middle(|vitals| vitals.files)?,
            threads: middle(|vitals| vitals.threads)?,
            disk_bytes: middle(|vitals| vitals.disk_bytes)?,
        };
        Some((vitals, stretch[stretch.len() / 2].acked))
    }

    /// What a node uses more of than it may, comparing the last quarter of what came after `warm` with the first; nothing if
    /// there is too little to compare.
    #[must_use]
    pub fn growth(&self, node: usize, warm: Duration, allowed: &Allowance) -> Vec<String> {
        let first = self.samples.iter().position(|sample| sample.at >= warm).unwrap_or(self.samples.len());
        let quarter = (self.samples.len() - first) / 4;
        let last = self.samples.len() - quarter;
        let (Some((early, acked)), Some((late, acked_late))) =
            (self.middle(node, first..first + quarter), self.middle(node, last..self.samples.len()))
        else {
            return Vec::new();
        };
        let keys = (acked_late - acked) as u64 * allowed.disk_bytes_each;
        let figures = [
            ("memory", early.rss_bytes, late.rss_bytes, allowed.rss_bytes),
            ("files", early.files, late.files, allowed.files),
            ("threads", early.threads, late.threads, allowed.threads),
            ("disk", early.disk_bytes, late.disk_bytes, allowed.disk_bytes + keys),
        ];
        let grown =
            figures.iter().filter(|(_, early, late, more)| *late > early + early * allowed.percent / 100 + more);
        let words = |(what, early, late, more): &(&str, u64, u64, u64)| {
            format!(
                "node {}: {what} grew from {early} to {late}, {more} and {} % are allowed",
                node + 1,
                allowed.percent
            )
        };
        grown.map(words).collect()
    }

    /// Writes it as comma-separated values.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = "s,acked".to_owned();
        for node in 1..=self.samples.first().map_or(0, |sample| sample.nodes.len()) {
            // Writing to a String can't fail.
            let _ = write!(text, ",rss_{node},files_{node},threads_{node},disk_{node}");
        }
        for sample in &self.samples {
            let _ = write!(text, "\n{},{}", sample.at.as_secs(), sample.acked);
            for vitals in &sample.nodes {
                let _ = match vitals {
                    None => write!(text, ",,,,"),
                    Some(Vitals { rss_bytes, files, threads, disk_bytes }) => {
                        write!(text, ",{rss_bytes},{files},{threads},{disk_bytes}")
                    }
                };
            }
        }
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

/// Bytes as MB, for people.
#[must_use]
pub fn mb(bytes: u64) -> u64 {
    bytes / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Allowance =
        Allowance { percent: 10, rss_bytes: 5, files: 2, threads: 1, disk_bytes: 0, disk_bytes_each: 3 };

    fn chart(vitals: impl Fn(u64) -> Vitals) -> Chart {
        let sample = |n: u64| Sample {
            at: Duration::from_secs(n),
            acked: n as usize * 10,
            nodes: vec![(!n.is_multiple_of(7)).then(|| vitals(n))],
        };
        Chart { samples: (0..100).map(sample).collect() }
    }

    fn grown(vitals: impl Fn(u64) -> Vitals) -> Vec<String> {
        chart(vitals).growth(0, Duration::from_secs(20), &ALLOWED)
    }

    #[test]
    fn what_is_flat_or_was_cold_is_no_growth_and_each_leak_is_seen() {
        let flat = Vitals { rss_bytes: 1_000, files: 40, threads: 8, disk_bytes: 9_000 };
        assert_eq!(grown(|_| flat), Vec::<String>::new());
        assert_eq!(grown(|n| Vitals { rss_bytes: 900 + n.min(20) * 5, ..flat }), Vec::<String>::new(), "warming up");
        assert_eq!(grown(|n| Vitals { disk_bytes: 9_000 + n * 20, ..flat }), Vec::<String>::new(), "keys");
        for leak in [
            grown(|n| Vitals { rss_bytes: 1_000 + n * 3, ..flat }),
            grown(|n| Vitals { files: 40 + n / 5, ..flat }),
            grown(|n| Vitals { threads: 8 + n / 10, ..flat }),
            grown(|n| Vitals { disk_bytes: 9_000 + n * 80, ..flat }),
        ] {
            assert_eq!(leak.len(), 1, "{leak:?}");
        }
    }

    #[test]
    fn too_little_is_no_reason_to_complain() {
        assert_eq!(Chart::default().growth(0, Duration::ZERO, &ALLOWED), Vec::<String>::new());
        assert_eq!(chart(|_| Vitals::default()).growth(3, Duration::ZERO, &ALLOWED), Vec::<String>::new());
    }
}
