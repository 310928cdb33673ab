//! Fills a network with made-up mDNS announcements of one key, each with another port, until it is killed: what anybody on a
//! network can do to the nodes there. For tests in network namespaces only.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::Parser;
use iris_p2p::PeerKey;
use tokio::net::UdpSocket;

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
const SERVICE: [&str; 3] = ["_p2p", "_udp", "local"];
const TTL_S: u32 = 3_600;
const PTR: u16 = 12;
const TXT: u16 = 16;
/// Ports from 1 on.
const PORTS: u16 = 60_000;
const PER_PACKET: u16 = 8;

/// Announces a key at ever new ports.
#[derive(Debug, Parser)]
struct Arguments {
    /// This machine's address.
    #[arg(long)]
    address: Ipv4Addr,
    /// Whom to announce.
    #[arg(long)]
    key: PeerKey,
    /// Milliseconds between two packets.
    #[arg(long, default_value_t = 2)]
    every_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let socket = UdpSocket::bind((arguments.address, 0)).await?;
    let mut pace = tokio::time::interval(Duration::from_millis(arguments.every_ms));
    for first in (1..PORTS - PER_PACKET).step_by(usize::from(PER_PACKET)).cycle() {
        pace.tick().await;
        socket.send_to(&packet(&arguments, first), GROUP).await?;
    }
    Ok(())
}

/// An answer to nobody's question: a pointer to a name, and the name's addresses (RFC 6762; libp2p's mDNS specification).
fn packet(arguments: &Arguments, first_port: u16) -> Vec<u8> {
    let name = [&["flood"], &SERVICE[..]].concat();
    let mut packet = Vec::new();
    // Id, "authoritative answer", then the numbers of questions, answers, authorities and additional records.
    for field in [0, 0x8400, 0, 1, 0, PER_PACKET] {
        packet.extend_from_slice(&u16::to_be_bytes(field));
    }
    record(&mut packet, &SERVICE, PTR, &labels(&name));
    for port in first_port..first_port + PER_PACKET {
        let text = format!("dnsaddr=/ip4/{}/tcp/{port}/p2p/{}", arguments.address, arguments.key);
        record(&mut packet, &name, TXT, &prefixed(&text));
    }
    packet
}

fn record(packet: &mut Vec<u8>, name: &[&str], kind: u16, data: &[u8]) {
    packet.extend(labels(name));
    packet.extend_from_slice(&kind.to_be_bytes());
    // Internet.
    packet.extend_from_slice(&1_u16.to_be_bytes());
    packet.extend_from_slice(&TTL_S.to_be_bytes());
    packet.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    packet.extend_from_slice(data);
}

fn labels(name: &[&str]) -> Vec<u8> {
    name.iter().flat_map(|label| prefixed(label)).chain([0]).collect()
}

fn prefixed(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[len], text.as_bytes()].concat()
}
