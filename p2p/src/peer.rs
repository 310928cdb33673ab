//! One member's link as a state machine: which of its connections is the link, which are closed, when to dial again.
//! Pure: the clock is passed in, and what is to be done comes out as [`Action`]s; `task` does it.
//!
//! Both sides dial, for either may be the one that can reach the other. The lower key of the two decides: it opens the
//! heartbeat on one connection at a time, and the higher one follows, so both always mean the same one. A connection
//! that comes while another is the link is not simply a duplicate: the higher side dials only when it has no connection,
//! so either two dials crossed or it has lost the first one unnoticed by us. Hence it stands by for a moment: if a beat
//! sent meanwhile is answered on the first, the newcomer goes; otherwise it takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;

use crate::backoff::Backoff;
use crate::behaviour::Line;
use crate::heartbeat::Pulse;
use crate::{DownCause, PeerState};

/// Which part this node plays in the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ours is the lower key: we choose the connection.
    Decides,
    /// The peer chooses; we follow its heartbeat.
    Follows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Established, no heartbeat on it.
    Standby,
    /// Heartbeat begun, no answer yet.
    Greeting,
    /// The link.
    Up,
}

#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    since: Instant,
    phase: Phase,
    pulse: Arc<Pulse>,
    line: Line,
}

/// What the state machine wants done.
#[derive(Debug)]
pub(crate) enum Action {
    Dial,
    /// Close it; the state machine has forgotten it already.
    Close(ConnectionId),
    /// Open the heartbeat on it.
    Greet(ConnectionId, Line, Arc<Pulse>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// See `LinkConfig::standby_window`.
    pub(crate) standby: Duration,
    /// A connection that isn't the link after this long is closed.
    pub(crate) confirm: Duration,
}

/// A link that held this long makes the next loss a fresh one; a shorter one counts as a failed attempt, so that two nodes
/// which accept and drop each other do not do so ten times a second.
const STABLE_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Peer {
    role: Role,
    windows: Windows,
    backoff: Backoff,
    connections: Vec<Connection>,
    dialing: bool,
    /// When to dial; only while there is no connection.
    dial_at: Option<Instant>,
    has_addrs: bool,
    state: PeerState,
}

impl Peer {
    pub(crate) fn new(role: Role, windows: Windows, backoff: Backoff, has_addrs: bool, now: Instant) -> Peer {
        // The lower side's dial gets a head start, so that two nodes that start together rarely cross.
        let dial_at = match role {
            Role::Decides => now,
            Role::Follows => now + backoff.min(),
        };
        let cause = if has_addrs { DownCause::Connecting } else { DownCause::NoAddress };
        let state = PeerState::Down { since: now, cause };
        Peer {
            role,
            windows,
            backoff,
            connections: Vec::new(),
            dialing: false,
            dial_at: has_addrs.then_some(dial_at),
            has_addrs,
            state,
        }
    }

    pub(crate) fn state(&self) -> PeerState {
        self.state
    }

    /// The line of the link, if it is up.
    pub(crate) fn line(&self) -> Option<&Line> {
        self.find(Phase::Up).map(|connection| &connection.line)
    }

    pub(crate) fn connection_ids(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.connections.iter().map(|connection| connection.id)
    }

    /// Other addresses: what was learnt about the old ones is void.
    pub(crate) fn addrs_changed(&mut self, has_addrs: bool, now: Instant) {
        self.note_addrs(has_addrs);
        self.backoff.reset();
        // A dial under way ends first; its failure leads to one with the new addresses.
        self.dial_at = (has_addrs && self.connections.is_empty() && !self.dialing).then_some(now);
    }

    /// One more address, from the network: worth a dial soon. The waits go on growing, because anybody there can make up
    /// addresses, and each must not cost more than one dial at the usual pace.
    pub(crate) fn addr_found(&mut self, now: Instant) {
        self.note_addrs(true);
        if self.connections.is_empty() && !self.dialing {
            let soon = now + self.backoff.shortest() + self.head_start();
            self.dial_at = Some(self.dial_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// An address went; whether others are left. A dial under way ends by itself.
    pub(crate) fn addr_gone(&mut self, has_addrs: bool) {
        self.note_addrs(has_addrs);
        if !has_addrs {
            self.dial_at = None;
        }
    }

    pub(crate) fn established(&mut self, id: ConnectionId, by_us: bool, line: Line, now: Instant) -> Vec<Action> {
        if by_us {
            self.dialing = false;
        }
        self.dial_at = None;
        self.connections.push(Connection { id, since: now, phase: Phase::Standby, pulse: Arc::default(), line });
        self.greet_if_free()
    }

    /// The peer, which decides, opened its heartbeat on `id`; the pulse is for the task that answers it.
    pub(crate) fn greeted(&mut self, id: ConnectionId) -> Option<Arc<Pulse>> {
        let follows = self.role == Role::Follows;
        let connection = self.connections.iter_mut().find(|connection| connection.id == id).filter(|_| follows)?;
        if connection.phase == Phase::Standby {
            connection.phase = Phase::Greeting;
        }
        Some(Arc::clone(&connection.pulse))
    }

    /// A beat was answered on `id`: it is the link, all others go.
    pub(crate) fn confirmed(&mut self, id: ConnectionId, now: Instant) -> Vec<Action> {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) else {
            return Vec::new();
        };
        connection.phase = Phase::Up;
        let (kept, closed): (Vec<_>, Vec<_>) = self.connections.drain(..).partition(|connection| connection.id == id);
        self.connections = kept;
        self.state = PeerState::Up { since: now };
        closed.into_iter().map(|connection| Action::Close(connection.id)).collect()
    }

    /// `id` is gone or must go (the heartbeat ended). The caller closes it if it still stands.
    pub(crate) fn lost(&mut self, id: ConnectionId, cause: DownCause, now: Instant) -> Vec<Action> {
        let Some(at) = self.connections.iter().position(|connection| connection.id == id) else {
            return Vec::new();
        };
        let connection = self.connections.swap_remove(at);
        match (connection.phase, self.state) {
            (Phase::Up, PeerState::Up { since }) => {
                if now.duration_since(since) >= STABLE_AFTER {
                    self.backoff.reset();
                } else {
                    self.backoff.failed();
                }
                self.state = PeerState::Down { since: now, cause };
            }
            (_, PeerState::Down { .. }) => {
                self.backoff.failed();
                self.note(DownCause::NotConfirmed);
            }
            // A spare one went while the link stands.
            _ => {}
        }
        self.plan_dial(now);
        self.greet_if_free()
    }

    pub(crate) fn dial_failed(&mut self, cause: DownCause, now: Instant) {
        self.dialing = false;
        self.backoff.failed();
        self.note(cause);
        self.plan_dial(now);
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = self.settle_standby(now);
        let confirm = self.windows.confirm;
        let overdue = |connection: &Connection| connection.phase != Phase::Up && now >= connection.since + confirm;
        let ids: Vec<_> = self.connections.iter().filter(|c| overdue(c)).map(|c| c.id).collect();
        for id in ids {
            actions.push(Action::Close(id));
            actions.extend(self.lost(id, DownCause::NotConfirmed, now));
        }
        if self.dial_at.is_some_and(|at| now >= at) {
            self.dial_at = None;
            self.dialing = true;
            actions.push(Action::Dial);
        }
        actions
    }

    /// When `tick` has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let chosen = self.chosen().is_some();
        let waits = self.connections.iter().filter(|connection| connection.phase != Phase::Up).map(|connection| {
            let settles = self.role == Role::Decides && connection.phase == Phase::Standby && chosen;
            connection.since + if settles { self.windows.standby } else { self.windows.confirm }
        });
        waits.chain(self.dial_at).min()
    }

    fn find(&self, phase: Phase) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.phase == phase)
    }

    fn chosen(&self) -> Option<&Connection> {
        self.find(Phase::Up).or_else(|| self.find(Phase::Greeting))
    }

    /// The deciding side begins a heartbeat as soon as there is a connection and none has one.
    fn greet_if_free(&mut self) -> Vec<Action> {
        if self.role == Role::Follows || self.chosen().is_some() {
            return Vec::new();
        }
        let newest = self.connections.iter_mut().max_by_key(|connection| connection.since);
        let greet = |connection: &mut Connection| {
            connection.phase = Phase::Greeting;
            Action::Greet(connection.id, connection.line.clone(), Arc::clone(&connection.pulse))
        };
        newest.map(greet).into_iter().collect()
    }

    /// The deciding side's choice between the link and the newest connection that stood by for long enough.
    fn settle_standby(&mut self, now: Instant) -> Vec<Action> {
        let window = self.windows.standby;
        let waited = |c: &&Connection| c.phase == Phase::Standby && now >= c.since + window;
        let newest = self.connections.iter().filter(waited).max_by_key(|connection| connection.since);
        let (Role::Decides, Some(standby), Some(chosen)) = (self.role, newest, self.chosen()) else {
            return Vec::new();
        };
        let alive = chosen.phase == Phase::Up && chosen.pulse.answered_since(standby.since);
        let (kept, dropped) = if alive { (chosen.id, standby.id) } else { (standby.id, chosen.id) };
        tracing::debug!(%kept, %dropped, "second connection settled");
        let mut actions = vec![Action::Close(dropped)];
        match alive {
            true => self.connections.retain(|connection| connection.id != dropped),
            false => actions.extend(self.lost(dropped, DownCause::Silent, now)),
        }
        actions
    }

    fn plan_dial(&mut self, now: Instant) {
        if !self.connections.is_empty() || self.dialing || !self.has_addrs {
            return;
        }
        self.dial_at = Some(now + self.backoff.wait() + self.head_start());
    }

    /// What the lower side's dial is ahead of ours, so that two nodes that see the same thing rarely cross.
    fn head_start(&self) -> Duration {
        match self.role {
            Role::Decides => Duration::ZERO,
            Role::Follows => self.backoff.min(),
        }
    }

    fn note_addrs(&mut self, has_addrs: bool) {
        self.has_addrs = has_addrs;
        match (has_addrs, self.state) {
            (true, PeerState::Down { cause: DownCause::NoAddress, .. }) => self.note(DownCause::Connecting),
            (false, _) => self.note(DownCause::NoAddress),
            _ => {}
        }
    }

    /// While down, the newest reason is the one worth showing.
    fn note(&mut self, newest: DownCause) {
        if let PeerState::Down { cause, .. } = &mut self.state {
            *cause = newest;
        }
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
