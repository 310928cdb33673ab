//! The node's side of the admin API (D2): a socket in the data folder that only the node's own user can open, and the one
//! sentence about how things stand (D5). What the answers contain is the node's; the types are `iris_protocol::admin`'s.

pub mod health;
mod listener;
mod server;

pub use listener::{AdminListener, bind, take_data_folder};
pub use server::{AdminSource, serve};

#[cfg(test)]
mod tests;
