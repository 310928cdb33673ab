//! What `iris up` says once it is ready: where things are, and the commands that send a first message and bring in another machine. Text only; the
//! node prints it.

use std::fmt::Write as _;
use std::path::Path;

use iris_protocol::admin::StatusReport;

/// The text, without a last line end. `program`: what to type for `iris`; `is_default_data`: commands find this node without
/// `--data`.
#[must_use]
pub fn welcome(report: &StatusReport, program: &str, data: &Path, is_default_data: bool) -> String {
    let name = report.nodes.iter().find(|node| node.id == report.node).map_or("iris", |node| node.name.as_str());
    let program = quoted(program);
    let option = if is_default_data { String::new() } else { format!(" --data {}", quoted(&data.to_string_lossy())) };
    let mut text =
        format!("Iris {} is ready: node {} ({name}) of {}.\n\n", report.version, report.node, members(report));
    for (what, is) in [
        ("Clients", report.listen.as_str()),
        ("Members", &report.p2p.join(", ")),
        ("CA", &format!("sha256 {}", report.ca_sha256)),
        ("Data", &data.to_string_lossy()),
    ] {
        let _ = writeln!(text, "  {what:<9}{is}");
    }
    let _ = write!(text, "\n{}\n\nTo try it, in another terminal:\n\n", report.health.sentence);
    for (command, what) in [
        (format!("{program} send{option} --as alice --to bob 'Hello, Bob!'"), "send a first message"),
        (format!("{program} tail{option} --as bob --follow"), "read what bob gets"),
        (format!("{program} token user{option} alice"), "a token for alice's own client, for 24 hours"),
        (
            format!("{program} join-token{option}"),
            "for another machine: iris up --join TOKEN there, and both keep everything",
        ),
        (format!("{program} status{option}"), "how things stand"),
    ] {
        let _ = writeln!(text, "  {command}\n      {what}");
    }
    text.push_str("\nCtrl-C stops this node cleanly.");
    text
}

fn members(report: &StatusReport) -> String {
    match report.nodes.len() {
        0 | 1 => "a cluster of its own".to_owned(),
        count => format!("a cluster of {count}"),
    }
}

/// As a POSIX shell reads it back, so that the commands can be copied.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_protocol::NodeId;
    use iris_protocol::admin::{Counters, Health, HealthLevel, NodeStatus};

    fn report() -> StatusReport {
        let node = NodeStatus {
            id: NodeId(1),
            name: "attic".into(),
            client: "attic:8443".into(),
            up: true,
            newcomer: false,
            leads: 8,
        };
        StatusReport {
            version: "0.1.0".into(),
            node: NodeId(1),
            pid: 7,
            cluster: "c".into(),
            ca_sha256: "ab".repeat(32),
            listen: "attic:8443".into(),
            p2p: vec!["/ip4/0.0.0.0/tcp/8444".into()],
            health: Health { level: HealthLevel::AtRisk, sentence: "One copy.".into() },
            nodes: vec![node],
            groups: Vec::new(),
            network: Default::default(),
            counters: Counters::default(),
            disk: None,
        }
    }

    #[test]
    fn it_says_where_things_are_and_what_to_type() {
        let expect = format!(
            "Iris 0.1.0 is ready: node 1 (attic) of a cluster of its own.\n\n  Clients  attic:8443\n  Members  \
             /ip4/0.0.0.0/tcp/8444\n  CA       sha256 {}\n  Data     /srv/iris\n\nOne copy.\n\nTo try it, in another \
             terminal:\n\n  iris send --as alice --to bob 'Hello, Bob!'\n      send a first message\n  iris tail --as bob \
             --follow\n      read what bob gets\n  iris token user alice\n      a token for alice's own client, for 24 \
             hours\n  iris join-token\n      for another machine: iris up --join TOKEN there, and both keep everything\n  iris status\n      how things stand\n\nCtrl-C stops this node cleanly.",
            "ab".repeat(32)
        );
        assert_eq!(welcome(&report(), "iris", "/srv/iris".as_ref(), true), expect);
    }

    #[test]
    fn commands_name_the_folder_only_when_they_must() {
        let check = |data: &str, expect: &str| {
            let text = welcome(&report(), "iris", data.as_ref(), false);
            assert_eq!(text.matches(expect).count(), 5, "{text}");
        };
        check("/tmp/n1", " --data /tmp/n1");
        check("/tmp/my node's", r" --data '/tmp/my node'\''s'");
    }
}
