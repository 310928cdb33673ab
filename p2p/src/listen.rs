//! This node's own addresses: binding them before the links start, and telling which they are. Owns no connection.

use std::io;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use libp2p::core::transport::{ListenerId, TransportError};
use tokio::time::timeout;

use crate::config::LISTEN_WITHIN;
use crate::task::LinksTask;
use crate::{LinksError, PeerAddr, StartError};

impl LinksTask {
    pub(crate) async fn listen(&mut self) -> Result<(), StartError> {
        for addr in self.config.listen.clone() {
            refuse_if_taken(&addr)?;
            let id = self.swarm.listen_on(addr.multiaddr().clone()).map_err(|error| {
                let source = match error {
                    TransportError::Other(source) => source,
                    unsupported => io::Error::new(io::ErrorKind::Unsupported, unsupported.to_string()),
                };
                StartError::Listen { addr: addr.clone(), source }
            })?;
            self.listening.insert(id, Vec::new());
            timeout(LISTEN_WITHIN, self.listener_stands(id, &addr))
                .await
                .map_err(|_| StartError::ListenTimeout(LISTEN_WITHIN))??;
            // A wildcard listener stands on every interface, and says so one by one: whoever asks next is told all of them.
            while let Some(event) = self.swarm.select_next_some().now_or_never() {
                if let Err(LinksError::ListenerEnded { reason, .. }) = self.on_swarm_event(event) {
                    return Err(StartError::Listen { addr, source: io::Error::other(reason) });
                }
            }
        }
        Ok(())
    }

    async fn listener_stands(&mut self, id: ListenerId, addr: &PeerAddr) -> Result<(), StartError> {
        while self.listening.get(&id).is_some_and(Vec::is_empty) {
            let event = self.swarm.select_next_some().await;
            if let Err(LinksError::ListenerEnded { reason, .. }) = self.on_swarm_event(event) {
                return Err(StartError::Listen { addr: addr.clone(), source: io::Error::other(reason) });
            }
        }
        Ok(())
    }

    pub(crate) fn publish_listening(&self) {
        let mut addrs: Vec<PeerAddr> =
            self.listening.values().flatten().filter(|addr| !addr.needs_zone()).cloned().collect();
        addrs.sort();
        self.outlet.published.listen.store(Arc::new(addrs));
    }
}

/// libp2p binds its TCP listeners so that a second process may share the port, and each would get half of the
/// connections. A plain bind tells first.
fn refuse_if_taken(addr: &PeerAddr) -> Result<(), StartError> {
    match addr.tcp_socket().filter(|socket| socket.port() != 0) {
        Some(socket) => match std::net::TcpListener::bind(socket) {
            Ok(_) => Ok(()),
            Err(source) => Err(StartError::Listen { addr: addr.clone(), source }),
        },
        None => Ok(()),
    }
}
