//! A cable from a test network's switch to this machine, so that programs here reach the machines there. Owns the subnet: its
//! number is in the name of this machine's end, which the kernel gives to one only. It goes with the switch.

use std::net::Ipv4Addr;

use anyhow::bail;

use super::{BRIDGE, Network, ip};

/// Subnets tried: 10.66.0.0/24 to 10.66.255.0/24. Private, and used by nothing we know of.
const SUBNETS: u16 = 256;
/// This machine's number in the subnet.
const HOST: u8 = 254;
/// The switch's end.
const PORT: &str = "uplink";

/// The addresses of a network that this machine is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet(u8);

impl Subnet {
    /// The address of its machine number so much, from 1.
    #[must_use]
    pub fn address(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 66, self.0, number)
    }

    /// This machine's address.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        self.address(HOST)
    }
}

impl Network {
    /// Plugs this machine in, in a subnet that nobody else here has.
    ///
    /// # Errors
    /// All are taken, or iproute2 can't.
    pub fn plug_in_host(&self) -> anyhow::Result<Subnet> {
        // Different processes begin at different numbers, so that they seldom try the same.
        let first = (std::process::id() % u32::from(SUBNETS)) as u16;
        let mut last = None;
        for number in (0..SUBNETS).map(|step| ((first + step) % SUBNETS) as u8) {
            let end = format!("iris-host-{number}");
            let cable = ["link", "add", &end, "type", "veth", "peer", "name", PORT, "netns", &self.name];
            match ip(&cable) {
                Ok(()) => return self.set_up(Subnet(number), &end),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error.context("no subnet is free")),
            None => bail!("there are no subnets"),
        }
    }

    fn set_up(&self, subnet: Subnet, end: &str) -> anyhow::Result<Subnet> {
        self.ip(&["link", "set", PORT, "master", BRIDGE, "up"])?;
        ip(&["address", "add", &format!("{}/24", subnet.host()), "dev", end])?;
        ip(&["link", "set", end, "up"])?;
        Ok(subnet)
    }
}
