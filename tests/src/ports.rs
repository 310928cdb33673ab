//! Ports for nodes. On loopback the kernel chooses them, and while a node is down its ports are held by a bound socket that does
//! not listen: dialling it is refused as it should be, and no outgoing connection of this machine takes the number meanwhile.
//! In a machine of a test network nobody else is, so that a port there needs no holding.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::net::TcpSocket;

/// One port, kept for the life of a test.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    held: Option<TcpSocket>,
}

impl Port {
    /// Takes a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is none.
    pub fn take() -> anyhow::Result<Self> {
        let socket = bind(0)?;
        let address = socket.local_addr().context("asking for the port")?;
        Ok(Self { address, held: Some(socket) })
    }

    /// A port of a machine that has nothing else on it.
    #[must_use]
    pub fn of_machine(address: SocketAddr) -> Self {
        Self { address, held: None }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.address.port()
    }

    /// `address:number`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Lets go, right before a node takes it.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// Holds it again, once the node is gone. If somebody was faster, the node's next start will tell.
    pub fn hold(&mut self) {
        if self.address.ip().is_loopback() {
            self.held = bind(self.number()).ok();
        }
    }
}

fn bind(number: u16) -> anyhow::Result<TcpSocket> {
    let socket = TcpSocket::new_v4().context("making a socket")?;
    // Connections of the process before may still be closing.
    socket.set_reuseaddr(true).context("SO_REUSEADDR")?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, number))).with_context(|| format!("taking port {number}"))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_held_port_refuses_and_a_released_one_can_be_listened_on() {
        let mut port = Port::take().unwrap();
        assert!(tokio::net::TcpStream::connect(port.address()).await.is_err(), "nobody listens");
        port.release();
        let listener = tokio::net::TcpListener::bind(port.address()).await.unwrap();
        tokio::net::TcpStream::connect(port.address()).await.unwrap();
        drop(listener);
        port.hold();
        assert!(port.held.is_some());
    }
}
