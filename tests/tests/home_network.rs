//! Three machines on one network, each started as a person would: `iris up` on the first, one token and `iris up --join` on the
//! others, no configuration (C1, C2, D1). Then one of them gets another address, as home routers do it, and is found again.
//! In network namespaces; where those can't be had the test says that it was skipped, and shows nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use iris_client::Admin;
use iris_protocol::admin::StatusReport;
use iris_tests::binaries::Binary;
use iris_tests::netns::{self, Machine, Network};
use iris_tests::wait::{NotYet, wait_for};

const DEADLINE: Duration = Duration::from_secs(120);

/// A machine of the house with its node. The node ends before its machine is taken away.
struct Node {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    machine: Machine,
}

impl Node {
    fn start(machine: Machine, dir: &Path, label: &str, more: &[&str]) -> Node {
        let (data, log) = (dir.join(label), dir.join(format!("{label}.log")));
        let output = std::fs::File::create(&log).unwrap();
        let mut command = machine.command(&Binary::Iris.path().unwrap());
        command.args(["up", "--name", label, "--data"]).arg(&data).args(more);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap();
        Node { child, data, log, machine }
    }

    async fn status(&self) -> Result<StatusReport, NotYet> {
        Admin::at(&self.data).status().await.map_err(|error| error.to_string().into())
    }

    /// Runs `iris` on this machine, as whoever sits before it.
    fn iris(&self, arguments: &[&str]) -> String {
        let mut command: Command = self.machine.command(&Binary::Iris.path().unwrap());
        let output = command.args(arguments).arg("--data").arg(&self.data).stdin(Stdio::null()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "iris {arguments:?} ended with {}: {out}{err}", output.status);
        out.trim().to_owned()
    }

    async fn wait(&self, what: &str, holds: impl Fn(&StatusReport) -> bool) {
        let waited = wait_for(what, DEADLINE, async || {
            let report = self.status().await?;
            if holds(&report) { Ok(()) } else { Err(format!("{:?} {:?}", report.nodes, report.groups).into()) }
        });
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        waited.await.unwrap_or_else(|error| panic!("{error:#}\n{}", log()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn machine(network: &Network, label: &str, address: &str) -> Machine {
    let machine = network.machine(label).unwrap();
    machine.add_address(address).unwrap();
    machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_machines_become_a_cluster_with_one_command_each() {
    if let Some(reason) = netns::unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let attic = Node::start(machine(&network, "attic", "10.78.0.1/24"), dir.path(), "attic", &[]);
    attic.wait("the first node to lead", |report| report.groups.iter().all(|group| group.leader.is_some())).await;
    attic.iris(&["send", "--as", "alice", "--to", "bob", "before"]);

    let token = attic.iris(&["join-token"]);
    let quic = ["--p2p", "/ip4/0.0.0.0/udp/8444/quic-v1", "--join", &token];
    let nas = Node::start(machine(&network, "nas", "10.78.0.2/24"), dir.path(), "nas", &quic);
    let two_copies = |report: &StatusReport| report.groups.iter().all(|group| group.voters.len() == 2);
    attic.wait("two copies of everything", two_copies).await;
    let token = nas.iris(&["join-token"]);
    let loft = Node::start(machine(&network, "loft", "10.78.0.3/24"), dir.path(), "loft", &["--join", &token]);
    for node in [&attic, &nas, &loft] {
        let three = |report: &StatusReport| {
            let all = report.groups.len() == 9 && report.groups.iter().all(|group| group.voters.len() == 3);
            all && report.nodes.iter().filter(|node| node.up).count() == 3
        };
        node.wait("three copies of everything and three links", three).await;
    }
    // What clients are told is where the machines really are.
    let report = loft.status().await.unwrap_or_else(|_| panic!("no status"));
    let clients: Vec<&str> = report.nodes.iter().map(|node| node.client.as_str()).collect();
    assert_eq!(clients, ["10.78.0.1:8443", "10.78.0.2:8443", "10.78.0.3:8443"]);
    assert!(loft.iris(&["tail", "--as", "bob", "--from", "0"]).ends_with("alice: before"));

    // The router gives the loft another address.
    loft.machine.remove_address("10.78.0.3/24").unwrap();
    loft.machine.add_address("10.78.0.33/24").unwrap();
    attic.wait("the loft to be lost", |report| report.nodes[2..].iter().all(|node| !node.up)).await;
    attic.wait("the loft to be found", |report| report.nodes.iter().all(|node| node.up)).await;
    attic.wait("its new address to be known", |report| report.nodes[2].client == "10.78.0.33:8443").await;
    loft.iris(&["send", "--as", "alice", "--to", "bob", "after"]);
    assert!(nas.iris(&["tail", "--as", "bob", "--from", "0"]).ends_with("alice: after"));
}
