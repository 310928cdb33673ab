//! The client side of Iris: log in at any node, send, follow one's inbox, and stay connected. [`Client`] hides failover, node
//! restarts, GOAWAY and refusals that only say "later" from its caller, and keeps two promises (docs/protocol.md, "Order"):
//! every message gets exactly one final answer, and messages to one recipient are appended in the order they were given to
//! [`Client::send`]. [`Admin`] speaks to a node on this machine through the socket in its data folder.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use iris_client::{Client, ClientConfig, Event, Outgoing, SubscribeFrom, Trust, UserId};
//!
//! let token = std::fs::read_to_string("alice.token")?.trim().to_owned();
//! let trust = Trust::from_token(&token).ok_or("this token does not name the cluster's CA")?;
//! let client = Client::start(ClientConfig::new(vec!["node1:8443".into(), "node2:8443".into()], trust, token))?;
//! let receipt = client.send_and_wait(Outgoing::new(UserId::new("bob")?, "hi")).await?;
//! println!("in bob's inbox as {}", receipt.id);
//!
//! let mut inbox = client.subscribe(SubscribeFrom::Stored, 256)?;
//! while let Event::Entry(entry) = inbox.next().await? {
//!     println!("{}: {:?}", entry.sender, entry.body);
//!     client.ack(entry.id);
//! }
//! # Ok(()) }
//! ```
//!
//! Invariants named by their absence: the outbox knows no socket and no clock; the connection decides nothing about order;
//! nothing here knows the appliance.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod acks;
mod admin;
mod backoff;
mod client;
mod config;
mod connection;
mod error;
mod inbox;
mod liveness;
mod message;
mod outbox;
mod rotation;
mod shared;
mod subscription;
mod supervisor;
mod tls;

pub use admin::{Admin, AdminClientError};
pub use client::Client;
pub use config::{ClientConfig, Deadlines, Token, TokenFuture, Trust};
pub use error::{ClientError, SendError};
pub use message::{ClientStats, Closing, Outgoing, Pending, Receipt, Welcome};
pub use subscription::{Event, Subscription};
pub use tls::{server_name, tls_config};

pub use iris_protocol::frame::{Code, Delivery, Durability, Status, SubscribeFrom};
pub use iris_protocol::{DeviceId, EntryId, MessageKey, NodeId, UserId};
