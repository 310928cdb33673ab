//! Tokens and clients for a cluster under test. Tokens are remembered, so that clients can be made while no node runs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use iris_client::{Admin, Client, ClientConfig, DeviceId, Trust, UserId};
use iris_protocol::admin::UserTokenRequest;

use super::Cluster;
use crate::node_process::NodeProcess;

/// How long tokens of tests live.
const TOKEN_TTL_S: u64 = 24 * 60 * 60;

/// What the harness knows of a cluster's trust.
#[derive(Debug, Default)]
pub(super) struct Access {
    ca_pem: Option<String>,
    tokens: Mutex<HashMap<UserId, String>>,
}

impl Access {
    pub(super) fn is_unset(&self) -> bool {
        self.ca_pem.is_none()
    }

    pub(super) async fn learn(&mut self, node: &NodeProcess) -> anyhow::Result<()> {
        let info = admin(node).connect_info().await.context("asking for the cluster's CA")?;
        self.ca_pem = Some(info.ca_pem);
        Ok(())
    }

    fn known_token(&self, user: &UserId) -> Option<String> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned()
    }
}

/// The operator's door of a node.
pub(super) fn admin(node: &NodeProcess) -> Admin {
    Admin::at(&node.data)
}

impl Cluster {
    /// The operator's door of a node.
    #[must_use]
    pub fn admin(&self, index: usize) -> Admin {
        admin(self.node(index))
    }

    /// The cluster's CA certificate, PEM.
    ///
    /// # Errors
    /// The cluster was never ready.
    pub fn ca_pem(&self) -> anyhow::Result<&str> {
        self.access.ca_pem.as_deref().context("the cluster was never ready")
    }

    /// A token for a user, bound to no device.
    ///
    /// # Errors
    /// No running node gives one.
    pub async fn token(&self, user: &UserId) -> anyhow::Result<String> {
        if let Some(token) = self.access.known_token(user) {
            return Ok(token);
        }
        let index = self.running().first().copied().context("no node runs that could give a token")?;
        let request = UserTokenRequest { user: user.clone(), device: None, ttl_s: TOKEN_TTL_S };
        let token = self.admin(index).user_token(&request).await?.token;
        let mut tokens = self.access.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(user.clone(), token.clone());
        Ok(token)
    }

    /// What a client of this user and device is told: every node, the CA, a token.
    ///
    /// # Errors
    /// No token, or the device's name is none.
    pub async fn client_config(&self, user: &UserId, device: &str) -> anyhow::Result<ClientConfig> {
        let trust = Trust::CaPem(self.ca_pem()?.to_owned());
        let mut config = ClientConfig::new(self.addresses(), trust, self.token(user).await?);
        config.device = Some(DeviceId::new(device)?);
        Ok(config)
    }

    /// A client that starts at a random node and goes to any.
    ///
    /// # Errors
    /// As [`Self::client_config`].
    pub async fn client(&self, user: &UserId, device: &str) -> anyhow::Result<Client> {
        Ok(Client::start(self.client_config(user, device).await?)?)
    }

    /// A client that starts at this node and goes to any.
    ///
    /// # Errors
    /// As [`Self::client_config`].
    pub async fn client_at(&self, user: &UserId, device: &str, index: usize) -> anyhow::Result<Client> {
        let mut config = self.client_config(user, device).await?;
        config.start_at = Some(index);
        Ok(Client::start(config)?)
    }

    /// A client that knows this node only (until a GOAWAY names others).
    ///
    /// # Errors
    /// As [`Self::client_config`].
    pub async fn client_of_one(&self, user: &UserId, device: &str, index: usize) -> anyhow::Result<Client> {
        let mut config = self.client_config(user, device).await?;
        config.addresses = vec![self.node(index).client_port.address()];
        Ok(Client::start(config)?)
    }
}
