//! A network on which somebody announces made-up nodes without end: what a node keeps stays bounded, its link stays up, and
//! members are still found (C1). In network namespaces; where those can't be had it says that it was skipped.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use iris_tests::binaries::Binary;
use iris_tests::link_process::{LinkIdentity, LinkProcess};
use iris_tests::netns::{self, Machine, Network};
use iris_tests::wait::wait_for;

const SOON: Duration = Duration::from_secs(45);
/// Sockets and files of a node that starts mDNS over again and again; each start that leaked would add three.
const OPEN_FILES_MAX: usize = 40;
/// How often one node must have started over: enough for a leak to show.
const STARTS: usize = 15;

struct Flood(Child);

impl Flood {
    fn start(machine: &Machine, key: &str) -> Flood {
        let mut command = machine.command(&Binary::MdnsFlood.path().unwrap());
        command.args(["--address", "10.77.0.9", "--key", key]).stdin(Stdio::null());
        Flood(command.spawn().unwrap())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn count(node: &LinkProcess, start: &str) -> usize {
    node.lines().iter().filter(|line| line.starts_with(start)).count()
}

#[tokio::test]
async fn made_up_announcements_cost_little_and_stop_nothing() {
    if let Some(reason) = netns::unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let network = Network::new().unwrap();
    let machines = ["one", "two", "flood"].map(|label| network.machine(label).unwrap());
    for (machine, number) in machines.iter().zip([1, 2, 9]) {
        machine.add_address(&format!("10.77.0.{number}/24")).unwrap();
    }
    let identities = [LinkIdentity::new().unwrap(), LinkIdentity::new().unwrap()];
    let keys = [identities[0].key(), identities[1].key()];
    let start = |at: usize| {
        let member = format!("--member={}", keys[1 - at]);
        identities[at].start(&machines[at], &["--listen=0.0.0.0:7400", &member, "--mdns"]).unwrap()
    };
    let began = Instant::now();
    let (one, two) = (start(0), start(1));
    one.says(&format!("up {}", keys[1]), began, SOON).await.unwrap();
    two.says(&format!("up {}", keys[0]), began, SOON).await.unwrap();

    // A stranger's key: mDNS starts over again and again, and hears the member again each time.
    let heard = format!("known {} Discovered /ip4/10.77.0.2/tcp/7400", keys[1]);
    let flood = Flood::start(&machines[2], &LinkIdentity::new().unwrap().key().to_string());
    wait_for("many starts of mDNS", SOON, async || match count(&one, &heard) {
        heard if heard > STARTS => Ok(()),
        heard => Err(format!("the member was heard {heard} times").into()),
    })
    .await
    .unwrap();
    let open = one.open_files().unwrap();
    eprintln!("{open} open files after {STARTS} starts");
    assert!(open <= OPEN_FILES_MAX, "{open} files are open");
    drop(flood);

    // A member's key: its made-up addresses are few at a time, and the link does not care.
    let since = Instant::now();
    let flood = Flood::start(&machines[2], &keys[1].to_string());
    one.says(&format!("known {} Discovered /ip4/10.77.0.9/", keys[1]), since, SOON).await.unwrap();
    for (node, other) in [(&one, keys[1]), (&two, keys[0])] {
        assert_eq!(count(node, &format!("up {other}")), 1, "{:#?}", node.lines());
    }

    // And a link that is lost meanwhile comes back.
    let since = Instant::now();
    machines[0].isolate().unwrap();
    one.says(&format!("down {}", keys[1]), since, SOON).await.unwrap();
    machines[0].rejoin().unwrap();
    one.says(&format!("up {}", keys[1]), since, SOON).await.unwrap();
    drop(flood);
}
