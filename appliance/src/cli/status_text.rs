//! A status report as text: the sentence first, because it is what one came for; then nodes, groups, counters.

use std::fmt::Write as _;

use iris_protocol::NodeId;
use iris_protocol::admin::{BreakerState, Counters, DiskStatus, GroupStatus, HealthLevel, NodeStatus, StatusReport};

use super::output::readable;

const MIB: u64 = 1024 * 1024;

/// The whole report, with a last line end.
pub fn status_text(report: &StatusReport) -> String {
    let level = match report.health.level {
        HealthLevel::Safe => "SAFE",
        HealthLevel::AtRisk => "AT RISK",
        HealthLevel::Stopped => "STOPPED",
    };
    let mut text = format!("{level}: {}\n\n", readable(report.health.sentence.as_bytes()));
    table(&mut text, &node_rows(report));
    text.push('\n');
    table(&mut text, &group_rows(&report.groups));
    let _ = writeln!(
        text,
        "\n{}{}\nThis node: {}, version {}, process {}, CA sha256 {}",
        counters(&report.counters),
        report.disk.as_ref().map(disk).unwrap_or_default(),
        report.node,
        report.version,
        report.pid,
        report.ca_sha256
    );
    text
}

fn node_rows(report: &StatusReport) -> Vec<Vec<String>> {
    let row = |node: &NodeStatus| {
        let name = readable(node.name.as_bytes());
        let here = if node.id == report.node { format!("{name} (this one)") } else { name };
        let left_alone =
            |breaker| report.network.links.iter().any(|link| link.node == node.id && link.breaker == breaker);
        let up = match node.up {
            false => "DOWN",
            true if left_alone(BreakerState::Open) => "NO ANSWER",
            true if left_alone(BreakerState::HalfOpen) => "TRYING",
            true => "up",
        };
        vec![node.id.to_string(), here, up.to_owned(), node.leads.to_string(), readable(node.client.as_bytes())]
    };
    let head = ["NODE", "NAME", "LINK", "LEADS", "CLIENTS CONNECT TO"].map(str::to_owned).to_vec();
    std::iter::once(head).chain(report.nodes.iter().map(row)).collect()
}

fn group_rows(groups: &[GroupStatus]) -> Vec<Vec<String>> {
    let row = |group: &GroupStatus| {
        let voters: Vec<String> = group.voters.iter().map(NodeId::to_string).collect();
        vec![
            group.shard.map_or_else(|| "meta".to_owned(), |shard| format!("shard {shard}")),
            group.leader.map_or_else(|| "NONE".to_owned(), |leader| leader.to_string()),
            format!("{}/{}", group.applied_index, group.last_index),
            group.term.to_string(),
            voters.join(","),
        ]
    };
    let head = ["GROUP", "LEADER", "APPLIED/LAST", "TERM", "VOTERS"].map(str::to_owned).to_vec();
    std::iter::once(head).chain(groups.iter().map(row)).collect()
}

/// Columns two spaces apart, as wide as their widest cell; nothing at the end of lines.
fn table(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn counters(counters: &Counters) -> String {
    let mut parts = vec![
        format!("{} sessions", counters.sessions),
        format!("{} in", counters.msg_in),
        format!("{} out", counters.msg_out),
        format!("{} committed", counters.ack_sent),
        format!("{} repeated", counters.dedup_hit),
        format!("{} refused", counters.refused),
        format!("{} fsyncs", counters.fsyncs),
        format!("{} MiB", counters.rss_bytes / MIB),
    ];
    // What must be 0 is only worth words when it is not.
    for (count, what) in [
        (counters.auth_failed, "logins refused"),
        (counters.bad_frames, "broken frames"),
        (counters.partitions, "NETWORK CUTS"),
        (counters.task_restarts, "TASK RESTARTS"),
        (counters.dedup_dropped_early, "KEYS FORGOTTEN EARLY (raise store.dedup_keys_max)"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.join(", ")
}

fn disk(disk: &DiskStatus) -> String {
    let state = match (disk.full, disk.slow) {
        (true, _) => " (FULL)",
        (false, true) => " (SLOW)",
        (false, false) => "",
    };
    format!(", {} MiB of disk free{state}, {} ms a write", disk.free_bytes / MIB, disk.write_us / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_protocol::ShardId;
    use iris_protocol::admin::{Health, LinkStatus, NetworkStatus};

    #[test]
    fn the_sentence_comes_first_and_tables_line_up() {
        let node = |id: u64, name: &str, up| NodeStatus {
            id: NodeId(id),
            name: name.into(),
            client: format!("{name}:8443"),
            up,
            newcomer: false,
            leads: 1,
        };
        let group = |shard, leader: Option<u64>| GroupStatus {
            shard,
            leader: leader.map(NodeId),
            term: 2,
            last_index: 120,
            applied_index: 118,
            checkpoint_index: 90,
            voters: vec![NodeId(1), NodeId(2)],
        };
        let report = StatusReport {
            version: "0.1.0".into(),
            node: NodeId(1),
            pid: 7,
            cluster: "c".into(),
            ca_sha256: "ab".into(),
            listen: "attic:8443".into(),
            p2p: Vec::new(),
            health: Health { level: HealthLevel::Stopped, sentence: "Messages wait.".into() },
            nodes: vec![node(1, "attic", true), node(2, "shed", false)],
            groups: vec![group(None, Some(1)), group(Some(ShardId(0)), None)],
            network: NetworkStatus {
                cuts: Vec::new(),
                links: vec![LinkStatus { node: NodeId(2), breaker: BreakerState::Open, failures: 5, opened: 1 }],
            },
            counters: Counters { msg_in: 5, rss_bytes: 40 * MIB, task_restarts: 1, ..Counters::default() },
            disk: Some(DiskStatus {
                free_bytes: 900 * MIB,
                reserve_bytes: 256 * MIB,
                full: false,
                slow: false,
                write_us: 2_400,
            }),
        };
        let expect = "\
STOPPED: Messages wait.

NODE  NAME              LINK  LEADS  CLIENTS CONNECT TO
1     attic (this one)  up    1      attic:8443
2     shed              DOWN  1      shed:8443

GROUP    LEADER  APPLIED/LAST  TERM  VOTERS
meta     1       118/120       2     1,2
shard 0  NONE    118/120       2     1,2

0 sessions, 5 in, 0 out, 0 committed, 0 repeated, 0 refused, 0 fsyncs, 40 MiB, 1 TASK RESTARTS, 900 MiB of disk free, 2 ms a write
This node: 1, version 0.1.0, process 7, CA sha256 ab
";
        assert_eq!(status_text(&report), expect);
    }
}
