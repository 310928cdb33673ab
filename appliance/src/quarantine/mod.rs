//! What becomes of a node whose disk is found damaged (C12, docs/decisions/0017). Every place that meets damage says so with one
//! typed error ([`damage`]); the node notes it in its data folder ([`note`]), leaves every group and serves nobody. When the
//! others can do without it, it asks them for a new place and comes back as a new node, with what it had kept aside
//! ([`folder`]); otherwise it waits for its operator. Nothing is ever deleted here. How the node does it is `node/quarantined`.

pub mod damage;
pub mod folder;
pub mod note;
mod watched;

pub use damage::{Damage, DamageWatch, Damaged};
pub use note::{Note, Stage};
