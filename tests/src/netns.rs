//! A network of its own for a test: machines as network namespaces, plugged into one switch, with addresses, cables that can
//! be cut and healed, and processes inside. Owns everything it makes and takes it away again, also after a panic, and after
//! a run of this harness that was killed.
//!
//! Needs root and iproute2. A test that can't have it says so with [`unavailable`] and shows nothing.

mod detour;
mod filter;
mod uplink;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
pub use uplink::Subnet;

/// Before the process id that a namespace belongs to.
const PREFIX: &str = "iris-test-";
/// Where iproute2 keeps namespaces, and files that stand in for those of /etc within one.
const NAMESPACES: &str = "/run/netns";
const FILES: &str = "/etc/netns";
/// The switch's bridge, and a machine's interface.
const BRIDGE: &str = "switch0";
const INTERFACE: &str = "eth0";

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Why this machine can't run tests in network namespaces, if it can't; tried out, not guessed.
#[must_use]
pub fn unavailable() -> Option<String> {
    let tried = Network::new().and_then(|network| {
        let machine = network.machine("probe")?;
        let status = machine.command(Path::new("true")).stdin(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { bail!("`true` ended with {status} there") }
    });
    tried.err().map(|error| format!("no network namespaces here (root and iproute2 are needed): {error:#}"))
}

/// A switch. Machines are plugged in with [`Network::machine`]; drop them first.
#[derive(Debug)]
pub struct Network {
    name: String,
}

/// A machine: a namespace with a loopback and one cable to the switch.
#[derive(Debug)]
pub struct Machine {
    name: String,
    switch: String,
    /// The switch's end of the cable.
    port: String,
}

impl Network {
    /// A switch without machines.
    ///
    /// # Errors
    /// No root, no iproute2.
    pub fn new() -> anyhow::Result<Self> {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_leftovers();
        }
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        // From here on its drop takes it away.
        let network = Self { name };
        // No waiting for a spanning tree, and no filter that has to learn who wants multicast.
        let bridge = ["link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"];
        network.ip(&[&bridge[..], &["mcast_snooping", "0"]].concat())?;
        network.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(network)
    }

    /// The namespace of the switch; those of the machines begin with it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Plugs in a machine, without an address yet.
    ///
    /// # Errors
    /// The name is taken or too long for an interface.
    pub fn machine(&self, label: &str) -> anyhow::Result<Machine> {
        let name = format!("{}-{label}", self.name);
        ip(&["netns", "add", &name])?;
        let machine = Machine { name, switch: self.name.clone(), port: label.to_owned() };
        let cable = ["link", "add", label, "type", "veth", "peer", "name", INTERFACE, "netns", &machine.name];
        self.ip(&cable)?;
        self.ip(&["link", "set", label, "master", BRIDGE, "up"])?;
        machine.ip(&["link", "set", "lo", "up"])?;
        machine.ip(&["link", "set", INTERFACE, "up"])?;
        Ok(machine)
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }
}

impl Machine {
    /// Gives it one more address, such as `10.77.0.1/24`.
    ///
    /// # Errors
    /// It is none.
    pub fn add_address(&self, address: &str) -> anyhow::Result<()> {
        self.ip(&["address", "add", address, "dev", INTERFACE])
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// It has no such address.
    pub fn remove_address(&self, address: &str) -> anyhow::Result<()> {
        self.ip(&["address", "del", address, "dev", INTERFACE])
    }

    /// Pulls the cable: the machine sees that its interface has no carrier.
    ///
    /// # Errors
    /// iproute2's.
    pub fn pull_cable(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.switch, "link", "set", &self.port, "down"])
    }

    /// Puts it back.
    ///
    /// # Errors
    /// iproute2's.
    pub fn plug_cable(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.switch, "link", "set", &self.port, "up"])
    }

    /// Cuts it off behind the switch: everything looks well, nothing arrives.
    ///
    /// # Errors
    /// iproute2's.
    pub fn isolate(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.switch, "link", "set", &self.port, "nomaster"])
    }

    /// Ends that.
    ///
    /// # Errors
    /// iproute2's.
    pub fn rejoin(&self) -> anyhow::Result<()> {
        ip(&["-n", &self.switch, "link", "set", &self.port, "master", BRIDGE])
    }

    /// What /etc/hosts says to programs started here, now or before. It has to be called once before a program starts that
    /// shall see later changes.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn hosts(&self, entries: &[(&str, &str)]) -> anyhow::Result<()> {
        let folder = Path::new(FILES).join(&self.name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let line = |(address, name): &(&str, &str)| format!("{address} {name}\n");
        let text: String = [("127.0.0.1", "localhost")].iter().chain(entries).map(line).collect();
        // In place: programs hold this very file, by a mount.
        std::fs::write(folder.join("hosts"), text).with_context(|| format!("writing hosts in {}", folder.display()))
    }

    /// A command that runs `program` in this machine. The process started is the program itself, so it can be killed by its
    /// id; it must be ended before the machine is dropped.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Whether a network namespace of this name is there.
#[must_use]
pub fn exists(name: &str) -> bool {
    Path::new(NAMESPACES).join(name).exists()
}

/// There is nobody left to tell if this fails; the next run tries again.
fn remove(name: &str) {
    let _ = ip(&["netns", "delete", name]);
    let _ = std::fs::remove_dir_all(Path::new(FILES).join(name));
}

/// Removes what runs of this harness left that are gone: a killed test runs no drop. Done before the first network is made.
pub fn remove_leftovers() {
    let Ok(folder) = std::fs::read_dir(NAMESPACES) else { return };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())) {
        eprintln!("netns: removing {name}, left by a run that is gone");
        // Nobody but its own programs can be in there.
        let listed = Command::new("ip").args(["netns", "pids", &name]).output();
        let pids = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        remove(&name);
    }
}

/// The process a namespace was made by, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("running `ip`")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("`ip {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_this_harness_have_an_owner() {
        assert_eq!(owner("iris-test-123-0-left"), Some(123));
        for foreign in ["iris-test-", "iris-test-x-0", "docker-123", "iris-123"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
