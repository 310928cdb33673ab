//! HELLO, and what it is answered with (docs/protocol.md, "Login and versions"). No I/O.

use std::net::SocketAddr;

use iris_protocol::frame::{ClientFrame, Code, ServerFrame, VERSION};
use iris_protocol::limits::SENDS_IN_FLIGHT_MAX;
use iris_protocol::{DeviceId, NodeId, UserId};

use super::session::End;
use super::{EdgeRouter, Shared};
use crate::auth::token::{self, Login, TokenRefused};
use crate::cluster::MetaView;
use crate::surroundings::Surroundings;

/// The device of a client that names none.
const DEVICE_DEFAULT: &str = "default";

/// Who may come in, and where else clients can go.
pub(super) trait Gate: Send + Sync + 'static {
    /// Judges a token.
    ///
    /// # Errors
    /// Why there is no login.
    fn admit(&self, token: &str) -> Result<Login, NotAdmitted>;

    /// Where clients can go on, other than here.
    fn other_addresses(&self) -> Vec<String>;
}

/// Why a token did not open the gate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAdmitted {
    /// It is refused; the text is for the log.
    #[error("{0}")]
    Refused(String),
    /// It says it begins later than this node's clock shows. Either may be wrong, and a machine without a battery boots in 1970:
    /// a node that took its own clock for the truth would turn good clients away for good.
    #[error("by this node's clock the token is not valid yet")]
    TooEarly,
    /// Nobody can be judged yet.
    #[error("the node does not belong to a cluster yet")]
    NotFounded,
}

/// The cluster's own gate: its token keys and its members.
pub(super) struct ClusterGate {
    pub(super) node: NodeId,
    pub(super) meta: MetaView,
    pub(super) surroundings: Surroundings,
}

impl Gate for ClusterGate {
    fn admit(&self, text: &str) -> Result<Login, NotAdmitted> {
        let state = self.meta.borrow().clone().ok_or(NotAdmitted::NotFounded)?;
        token::verify(&state, text, self.surroundings.clock.unix_ms()).map_err(|refused| match refused {
            TokenRefused::NotYetValid => NotAdmitted::TooEarly,
            other => NotAdmitted::Refused(other.to_string()),
        })
    }

    fn other_addresses(&self) -> Vec<String> {
        let state = self.meta.borrow();
        let nodes = state.iter().flat_map(|state| state.nodes.iter());
        nodes.filter(|(id, _)| **id != self.node).map(|(_, record)| record.client.clone()).collect()
    }
}

/// Who a session is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
}

impl<R: EdgeRouter> Shared<R> {
    /// Judges the first frame of a connection.
    pub(super) fn login(&self, frame: ClientFrame, peer: SocketAddr) -> Result<Who, End> {
        let ClientFrame::Hello { version_min, version_max, token, device, software } = frame else {
            return Err(End::error(Code::NotLoggedIn, "the first frame must be HELLO"));
        };
        if !(version_min..=version_max).contains(&VERSION) {
            let reason = format!("this server speaks version {VERSION}, not {version_min} to {version_max}");
            return Err(End::error(Code::UnsupportedVersion, reason));
        }
        let login = self.gate.admit(&token).map_err(|error| match error {
            NotAdmitted::NotFounded => End::error(Code::ShuttingDown, error.to_string()),
            // Not final: the client goes to another node, or comes again.
            NotAdmitted::TooEarly => {
                self.counters.auth_failed.one();
                tracing::warn!(%peer, "a login was put off: the token is not valid yet by this machine's clock; is it right?");
                End::error(Code::ShuttingDown, error.to_string())
            }
            NotAdmitted::Refused(why) => {
                self.counters.auth_failed.one();
                // The stranger learns nothing; the operator does, here and nowhere else.
                tracing::info!(%peer, %why, "a login was refused");
                End::error(Code::AuthFailed, "the token was refused")
            }
        })?;
        let device = match login.device.or(device) {
            Some(device) => device,
            None => DeviceId::new(DEVICE_DEFAULT).map_err(|error| End::error(Code::Internal, error.to_string()))?,
        };
        tracing::debug!(%peer, user = %login.user, %device, %software, "logged in");
        Ok(Who { user: login.user, device })
    }

    /// The answer to a good HELLO.
    pub(super) fn welcome(&self, who: &Who) -> ServerFrame {
        ServerFrame::Welcome {
            version: VERSION,
            node: self.node,
            user: who.user.clone(),
            device: who.device.clone(),
            sends_in_flight_max: SENDS_IN_FLIGHT_MAX as u32,
            idle_ms_max: u32::try_from(self.options.idle.as_millis()).unwrap_or(u32::MAX).max(1),
        }
    }
}
