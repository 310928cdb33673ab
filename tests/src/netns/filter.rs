//! One-way cuts between machines, by nftables: a machine drops what comes from an address. The other way stays as it is, and
//! to both sides everything looks well. Owns one table in each machine; it goes with the machine.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};

use super::Machine;

/// One table with a set of addresses; what comes from them is dropped before any program hears of it.
const TABLE: &str = "\
table inet faults {
    set cut { type ipv4_addr; }
    chain input {
        type filter hook input priority 0; policy accept;
        ip saddr @cut drop
    }
}
";

impl Machine {
    /// Makes it ready for cuts.
    ///
    /// # Errors
    /// No nftables here.
    pub fn install_filter(&self) -> anyhow::Result<()> {
        self.nft(TABLE)
    }

    /// Drops what comes from this address. Again is no error.
    ///
    /// # Errors
    /// nft's.
    pub fn drop_from(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        self.nft(&format!("add element inet faults cut {{ {address} }}\n"))
    }

    /// Hears everybody again.
    ///
    /// # Errors
    /// nft's.
    pub fn hear_all(&self) -> anyhow::Result<()> {
        self.nft("flush set inet faults cut\n")
    }

    pub(super) fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let mut command = self.command(Path::new("nft"));
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("running `nft` (is nftables installed?)")?;
        let mut input = child.stdin.take().context("nft has no input")?;
        input.write_all(rules.as_bytes()).context("telling nft its rules")?;
        drop(input);
        let output = child.wait_with_output().context("waiting for nft")?;
        if output.status.success() {
            return Ok(());
        }
        bail!("nft in {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim())
    }
}
