//! What the fuzz target of sessions and the simulation see of the edge: whole sessions over any stream, with a gate, and for
//! the target a router, of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use iris_protocol::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

use super::login::{Gate, NotAdmitted};
use super::{EdgeCounters, EdgeOptions, EdgeRouter, Shared, session};
use crate::auth::token::Login;
use crate::surroundings::Surroundings;

struct Admit(fn(&str) -> Option<Login>);

impl Gate for Admit {
    fn admit(&self, token: &str) -> Result<Login, NotAdmitted> {
        (self.0)(token).ok_or_else(|| NotAdmitted::Refused("not let in".to_owned()))
    }

    fn other_addresses(&self) -> Vec<String> {
        vec!["192.0.2.2:8443".to_owned()]
    }
}

/// A node's edge without its port.
pub struct Node<R>(Shared<R>);

impl<R: EdgeRouter> Node<R> {
    /// A node that lets in whom `admit` knows.
    pub fn new(admit: fn(&str) -> Option<Login>, router: R, options: EdgeOptions, surroundings: Surroundings) -> Self {
        Self::numbered(NodeId(1), admit, router, options, surroundings)
    }

    /// One of several such nodes.
    pub fn numbered(
        node: NodeId,
        admit: fn(&str) -> Option<Login>,
        router: R,
        options: EdgeOptions,
        surroundings: Surroundings,
    ) -> Self {
        let counters = Arc::new(EdgeCounters::default());
        Self(Shared::new(node, Box::new(Admit(admit)), router, options, surroundings, counters))
    }

    /// Serves one connection until it ends.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) {
        session::serve(&self.0, stream, SocketAddr::from(([192, 0, 2, 1], 1))).await;
    }

    /// Begins to go down: sessions are told to leave.
    pub fn drain(&self) {
        self.0.draining.cancel();
    }
}
