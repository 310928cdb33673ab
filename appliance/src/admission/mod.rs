//! How a machine becomes a member (C2): the token that is carried to it, what it asks at a member's door, what it is answered,
//! and the file by which it remembers its place. Admission goes over the client port, under an ALPN of its own and with the
//! token's secret; the members' ports never see a stranger. What the cluster remembers of it is `cluster/meta/admission`.

mod begin;
mod door;
mod joiner;
mod membership;
pub mod offer;
pub mod token;
pub mod wire;

pub use begin::{Begin, begin};
pub use door::{Door, JoinDesk};
pub use joiner::{JoinError, Newcomer, join, say_on_stderr};
pub use membership::{Membership, Origin};
pub use token::JoinToken;

/// The protocol between a new node and a member, told apart on the client port by this name.
pub const JOIN_ALPN: &[u8] = b"iris-join/1";

/// Bytes of a cluster's id.
const CLUSTER_LEN_MAX: usize = 64;

/// Bytes of `host:port`: a DNS name has 253 at most.
const ADDRESS_LEN_MAX: usize = 261;

/// Whether a text has the shape `host:port`; whether the host exists is found out by dialling.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port != 0)
}
