//! Detours: what a machine's programs connect to at one address is led to another instead, by nftables, without their knowing. A
//! proxy that delays stands there. Connections that stand already are not touched; UDP is not led anywhere.

use std::net::SocketAddrV4;

use super::Machine;

/// The chain that leads elsewhere.
const TABLE: &str = "\
table inet detour {
    chain output { type nat hook output priority -100; policy accept; }
}
";

impl Machine {
    /// Makes it ready for detours.
    ///
    /// # Errors
    /// No address translation here.
    pub fn install_detours(&self) -> anyhow::Result<()> {
        self.nft(TABLE)
    }

    /// New TCP connections to `from` go to `to`.
    ///
    /// # Errors
    /// nft's.
    pub fn lead(&self, from: SocketAddrV4, to: SocketAddrV4) -> anyhow::Result<()> {
        let (ip, port) = (from.ip(), from.port());
        self.nft(&format!("add rule inet detour output ip daddr {ip} tcp dport {port} dnat ip to {to}\n"))
    }
}
