//! What a battery's nodes stand on: machines of a network of their own, where root allows that, or this machine's loopback.
//! Owns the network; places are given out from it.

use crate::netns::{self, Network, Subnet};
use crate::place::Place;

/// Where nodes can be put.
#[derive(Debug)]
pub enum Ground {
    /// Each in a network namespace, on one switch that this machine is plugged into too.
    Network(Network, Subnet),
    /// All on loopback: what needs a cut is skipped, for this reason.
    Loopback(String),
}

impl Ground {
    /// A network, or loopback with the reason why not.
    ///
    /// # Errors
    /// Namespaces can be had, but not plugged together.
    pub fn new(loopback: bool) -> anyhow::Result<Self> {
        if loopback {
            return Ok(Self::Loopback("told to stay on loopback".to_owned()));
        }
        if let Some(reason) = netns::unavailable() {
            return Ok(Self::Loopback(reason));
        }
        let network = Network::new()?;
        if let Err(error) = network.machine("filter").and_then(|machine| machine.install_filter()) {
            return Ok(Self::Loopback(format!("no nftables here: {error:#}")));
        }
        let subnet = network.plug_in_host()?;
        Ok(Self::Network(network, subnet))
    }

    /// Why nothing can be cut here, if nothing can.
    #[must_use]
    pub fn uncuttable(&self) -> Option<&str> {
        match self {
            Self::Network(..) => None,
            Self::Loopback(reason) => Some(reason),
        }
    }

    /// In one word, for the line of a row.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Network(..) => "namespaces",
            Self::Loopback(_) => "loopback",
        }
    }

    /// The place of the node number so much, from 1.
    ///
    /// # Errors
    /// iproute2's or nft's.
    pub fn place(&self, number: u8) -> anyhow::Result<Place> {
        match self {
            Self::Loopback(_) => Ok(Place::loopback()),
            Self::Network(network, subnet) => {
                let machine = network.machine(&format!("node-{number}"))?;
                let address = subnet.address(number);
                machine.add_address(&format!("{address}/24"))?;
                machine.install_filter()?;
                Ok(Place::machine(machine, address))
            }
        }
    }
}
