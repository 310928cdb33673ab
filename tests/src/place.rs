//! Where a node's process runs: on this machine's loopback, or in a machine of a test network; and the environment it is
//! started with. Owns its machine.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::netns::Machine;
use crate::ports::Port;

/// Ports of a node that has a machine to itself: those of the product.
const CLIENT_PORT: u16 = 8443;
/// For peers.
pub const P2P_PORT: u16 = 8444;

/// Where a node runs.
#[derive(Debug, Default)]
pub struct Place {
    machine: Option<(Machine, Ipv4Addr)>,
    environment: Vec<(String, OsString)>,
}

impl Place {
    /// This machine's loopback, at ports of the kernel's choice.
    #[must_use]
    pub fn loopback() -> Self {
        Self::default()
    }

    /// A machine with this address.
    #[must_use]
    pub fn machine(machine: Machine, address: Ipv4Addr) -> Self {
        Self { machine: Some((machine, address)), environment: Vec::new() }
    }

    /// Its machine and address.
    ///
    /// # Errors
    /// It is on loopback, where nothing can be cut.
    pub fn on_network(&self) -> anyhow::Result<(&Machine, Ipv4Addr)> {
        let (machine, address) = self.machine.as_ref().context("a node on loopback has no network of its own")?;
        Ok((machine, *address))
    }

    /// Sets a variable for programs started from now on.
    pub fn set_environment(&mut self, name: &str, value: OsString) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value));
    }

    /// A command that runs `program` here. The process started is the program itself.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match &self.machine {
            Some((machine, _)) => machine.command(program),
            None => Command::new(program),
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn client_port(&self) -> anyhow::Result<Port> {
        self.port(CLIENT_PORT)
    }

    pub(crate) fn p2p_port(&self) -> anyhow::Result<Port> {
        self.port(P2P_PORT)
    }

    fn port(&self, number: u16) -> anyhow::Result<Port> {
        match &self.machine {
            Some((_, address)) => Ok(Port::of_machine(SocketAddr::from((*address, number)))),
            None => Port::take(),
        }
    }
}
