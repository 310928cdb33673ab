//! Who may do what: the cluster's certificates and the users' tokens. Keys live in the meta group's state; nothing here keeps
//! them anywhere else, and none of them is ever logged.

pub mod pki;
pub mod token;
