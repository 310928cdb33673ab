//! Links over real interfaces: members that know only each other's keys find each other by mDNS, strangers stay out, a cut
//! cable is noticed in time, and a changed address found again (C1). In network namespaces; where those can't be had a
//! test says that it was skipped, and shows nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use iris_tests::link_process::{LinkIdentity, LinkProcess};
use iris_tests::netns::{self, Machine, Network};
use tokio::join;

/// Only a failing test waits this long. Longer than the interval in which mDNS asks again, for packets that were lost.
const SOON: Duration = Duration::from_secs(45);
/// A silent peer is closed in 2 to 3 s; the rest is room for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

const TCP: &str = "0.0.0.0:7400";
const QUIC: &str = "/ip4/0.0.0.0/udp/7400/quic-v1";

/// A network, or the reason why this test shows nothing here.
fn network() -> Option<Network> {
    if let Some(reason) = netns::unavailable() {
        eprintln!("skipped: {reason}");
        return None;
    }
    Some(Network::new().unwrap())
}

/// Two nodes on one network. Dropped from the first field to the last: processes, machines, switch.
struct Pair {
    one: LinkProcess,
    two: LinkProcess,
    machines: [Machine; 2],
    network: Network,
}

impl Pair {
    /// Both listen on `listen`, know each other's key and nothing else, and use mDNS.
    fn start(network: Network, listen: &[&str]) -> Pair {
        let machines = ["one", "two"].map(|label| network.machine(label).unwrap());
        let identities = [LinkIdentity::new().unwrap(), LinkIdentity::new().unwrap()];
        for (machine, address) in machines.iter().zip(["10.77.0.1/24", "10.77.0.2/24"]) {
            machine.add_address(address).unwrap();
        }
        let start = |at: usize| start(&identities[at], &machines[at], listen, &[&identities[1 - at]]);
        Pair { one: start(0), two: start(1), machines, network }
    }

    /// Waits until each says of the other what begins so; returns when the later one did.
    async fn both_say(&self, what: &str, since: Instant, deadline: Duration) -> Instant {
        let (one, two) = (format!("{what} {}", self.two.key()), format!("{what} {}", self.one.key()));
        let (one, two) = join!(self.one.says(&one, since, deadline), self.two.says(&two, since, deadline));
        one.unwrap().max(two.unwrap())
    }
}

fn start(identity: &LinkIdentity, machine: &Machine, listen: &[&str], members: &[&LinkIdentity]) -> LinkProcess {
    let members: Vec<String> = members.iter().map(|member| format!("--member={}", member.key())).collect();
    let listen: Vec<String> = listen.iter().map(|addr| format!("--listen={addr}")).collect();
    let arguments: Vec<&str> = listen.iter().chain(&members).map(String::as_str).chain(["--mdns"]).collect();
    identity.start(machine, &arguments).unwrap()
}

#[tokio::test]
async fn members_find_each_other_and_a_stranger_stays_out() {
    for listen in [vec![TCP], vec![QUIC], vec![TCP, QUIC]] {
        let Some(network) = network() else { return };
        let began = Instant::now();
        let pair = Pair::start(network, &listen);
        let up = pair.both_say("up", began, SOON).await;
        eprintln!("{listen:?}: linked {:?} after the start", up - began);

        // It knows both keys, hears both on the network, and calls; both hear it as well.
        let machine = pair.network.machine("three").unwrap();
        machine.add_address("10.77.0.3/24").unwrap();
        let stranger = LinkIdentity::new().unwrap();
        let known = [&pair.one, &pair.two].map(LinkProcess::key);
        let members: Vec<String> = known.iter().map(|key| format!("--member={key}")).collect();
        let listen: Vec<String> = listen.iter().map(|addr| format!("--listen={addr}")).collect();
        let arguments: Vec<&str> = listen.iter().chain(&members).map(String::as_str).chain(["--mdns"]).collect();
        let stranger = stranger.start(&machine, &arguments).unwrap();
        for key in known {
            stranger.says(&format!("known {key} Discovered"), began, SOON).await.unwrap();
            // Reached, and let drop after the handshake: unreachable would show nothing.
            stranger.says(&format!("down {key} NotConfirmed"), began, SOON).await.unwrap();
        }
        let stranger_key = stranger.key().to_string();
        assert!(stranger.lines().iter().all(|line| !line.starts_with("up ") && !line.starts_with("stream ")));
        for member in [&pair.one, &pair.two] {
            assert!(member.lines().iter().all(|line| !line.contains(&stranger_key)), "{:#?}", member.lines());
            assert!(!member.lines().iter().any(|line| line.starts_with("down ") && line.ends_with("Closed")));
        }
        drop((stranger, machine));
    }
}

#[tokio::test]
async fn a_cut_cable_is_noticed_in_time_and_a_healed_one_used_again() {
    for transport in [TCP, QUIC] {
        let Some(network) = network() else { return };
        let mut since = Instant::now();
        let pair = Pair::start(network, &[transport]);
        let [machine, _] = &pair.machines;
        type Act = fn(&Machine) -> anyhow::Result<()>;
        let cuts: [(&str, Act, Act); 2] = [
            ("pulled", Machine::pull_cable, Machine::plug_cable),
            ("cut behind the switch", Machine::isolate, Machine::rejoin),
        ];
        for (how, cut, heal) in cuts {
            pair.both_say("up", since, SOON).await;
            since = Instant::now();
            cut(machine).unwrap();
            let noticed = pair.both_say("down", since, NOTICED_WITHIN).await;
            eprintln!("{transport}: cable {how}: both noticed within {:?}", noticed - since);
            since = Instant::now();
            heal(machine).unwrap();
            let again = pair.both_say("up", since, SOON).await;
            eprintln!("{transport}: linked again {:?} after it was healed", again - since);
        }
    }
}

#[tokio::test]
async fn new_addresses_are_found_by_mdns() {
    for transport in [TCP, QUIC] {
        let Some(network) = network() else { return };
        let mut since = Instant::now();
        let pair = Pair::start(network, &[transport]);
        pair.both_say("up", since, SOON).await;
        since = Instant::now();
        // Both at once, so that neither old address is worth anything.
        for (machine, number) in pair.machines.iter().zip(1..) {
            machine.remove_address(&format!("10.77.0.{number}/24")).unwrap();
            machine.add_address(&format!("10.78.0.{number}/24")).unwrap();
        }
        pair.both_say("down", since, NOTICED_WITHIN).await;
        let again = pair.both_say("up", since, SOON).await;
        eprintln!("{transport}: linked again {:?} after both changed their addresses", again - since);
        let found = |node: &LinkProcess| node.lines().iter().any(|line| line.contains(" Discovered /ip4/10.78.0."));
        assert!(found(&pair.one) || found(&pair.two));
    }
}

#[tokio::test]
async fn a_host_name_is_looked_up_again_for_every_dial() {
    for (listen, named) in [(TCP, "/dns4/peer.test/tcp/7400"), (QUIC, "/dns4/peer.test/udp/7400/quic-v1")] {
        let Some(network) = network() else { return };
        let [caller_machine, called_machine] = ["caller", "called"].map(|label| network.machine(label).unwrap());
        caller_machine.add_address("10.77.0.1/24").unwrap();
        called_machine.add_address("10.77.0.2/24").unwrap();
        let [caller, called] = [LinkIdentity::new().unwrap(), LinkIdentity::new().unwrap()];
        caller_machine.hosts(&[]).unwrap();
        let mut since = Instant::now();
        let listen = format!("--listen={listen}");
        let called = called.start(&called_machine, &[&listen, &format!("--member={}", caller.key())]).unwrap();
        let caller = caller.start(&caller_machine, &[&format!("--member={}={named}", called.key())]).unwrap();
        let up = format!("up {}", called.key());
        for (host, before) in [(2, None), (3, Some(2)), (4, Some(3))] {
            if let Some(before) = before {
                called_machine.remove_address(&format!("10.77.0.{before}/24")).unwrap();
                called_machine.add_address(&format!("10.77.0.{host}/24")).unwrap();
            }
            // While the name means nothing, or something old, there is no link.
            caller.says(&format!("down {}", called.key()), since, NOTICED_WITHIN).await.unwrap();
            since = Instant::now();
            caller_machine.hosts(&[(&format!("10.77.0.{host}"), "peer.test")]).unwrap();
            let at = caller.says(&up, since, SOON).await.unwrap();
            eprintln!("{named}: linked {:?} after the name changed", at - since);
            since = Instant::now();
        }
        drop((caller, called, caller_machine, called_machine));
        drop(network);
    }
}

#[test]
fn the_harness_leaves_nothing_behind() {
    let Some(network) = network() else { return };
    let name = network.name().to_owned();
    let panicked = std::panic::catch_unwind(move || {
        let network = network;
        let machine = network.machine("left").unwrap();
        machine.hosts(&[]).unwrap();
        assert!(netns::exists(network.name()) && netns::exists(&format!("{}-left", network.name())));
        panic!("as a failing test does");
    });
    assert!(panicked.is_err());
    assert!(!netns::exists(&name) && !netns::exists(&format!("{name}-left")));
    assert!(!Path::new("/etc/netns").join(format!("{name}-left")).exists());

    // As a killed test leaves it: namespaces of a process that is gone, and a program in one that goes on.
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let left = format!("iris-test-{}-0-left", gone.id());
    assert!(Command::new("ip").args(["netns", "add", &left]).status().unwrap().success());
    let mut running = Command::new("ip").args(["netns", "exec", &left, "sleep", "600"]).spawn().unwrap();
    let ours = Network::new().unwrap();
    netns::remove_leftovers();
    assert!(!netns::exists(&left), "removed");
    assert!(!running.wait().unwrap().success(), "killed");
    assert!(netns::exists(ours.name()), "what is in use stays");
}
