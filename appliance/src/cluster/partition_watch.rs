//! Asks the members whom they see, and tells once what follows from it (`partition`): in the log, as a count, and for the status
//! report. Every node does so for itself: whoever is asked by an operator knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use iris_protocol::NodeId;
use iris_protocol::admin::{BreakerState, LinkStatus, NetworkCut, NetworkStatus};
use iris_protocol::versioned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::breaker::{FAILURES_MAX, State};
use super::handler::META_GROUP;
use super::neighbours::Members;
use super::partition::{Cut, Detector, Event, Sight, Sights};
use super::rpc::{Method, RpcClients};
use super::transport::{Channel, PeerTransport};

/// Between looks. A cut is told some 10 s after it was made: 3 s until the links notice, then [`super::partition::STANDS_FOR`].
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Longest a member may take to answer; it looks into its memory.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// What is known of the network between the members.
pub struct Partitions {
    node: NodeId,
    /// This process, as the others know it again.
    run: u64,
    roster: watch::Receiver<Members>,
    clients: Arc<RpcClients>,
    transport: Arc<dyn PeerTransport>,
    cuts: ArcSwap<Vec<Cut>>,
    count: AtomicU64,
}

impl Partitions {
    pub(super) fn new(
        node: NodeId,
        run: u64,
        roster: watch::Receiver<Members>,
        clients: Arc<RpcClients>,
        transport: Arc<dyn PeerTransport>,
    ) -> Self {
        Self { node, run, roster, clients, transport, cuts: ArcSwap::default(), count: AtomicU64::new(0) }
    }

    /// A peer called by itself.
    pub(super) fn heard_from(&self, node: NodeId) {
        self.clients.heard_from(node);
    }

    fn others(&self) -> Vec<NodeId> {
        self.roster.borrow().keys().copied().filter(|node| *node != self.node).collect()
    }

    /// What this node says when it is asked.
    pub(super) fn sight(&self) -> Sight {
        Sight { run: self.run, sees: self.others().into_iter().filter(|node| self.transport.is_up(*node)).collect() }
    }

    /// Looks and tells, until `stop`.
    pub(super) async fn watch(&self, stop: &CancellationToken) {
        let (began, mut detector) = (Instant::now(), Detector::new(self.node));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let sights = self.ask().await;
            for event in detector.look(began.elapsed(), &sights) {
                self.count.fetch_add(u64::from(!matches!(event, Event::Healed(..))), Ordering::Relaxed);
                tell(&event, &sights);
            }
            let cuts: Vec<Cut> = detector.believed().collect();
            if **self.cuts.load() != cuts {
                self.cuts.store(Arc::new(cuts));
            }
        }
    }

    /// Whom everybody sees, this node included.
    async fn ask(&self) -> Sights {
        let own = self.sight();
        let asked = own.sees.iter().map(|node| async move {
            let client = self.clients.get(*node, Channel::Edge).ok()?;
            let answer = client.call(Method::Sight, META_GROUP, Bytes::new(), ANSWER_DEADLINE).await.ok()?;
            Some((*node, versioned::decode::<Sight>(&answer).ok()?))
        });
        let answers = futures::future::join_all(asked).await;
        let members = self.roster.borrow();
        let mut sights: Sights = answers.into_iter().flatten().collect();
        // One that is not on this node's list yet, or any more, can't be cut off from it.
        sights.values_mut().for_each(|sight| sight.sees.retain(|node| members.contains_key(node)));
        sights.insert(self.node, own);
        sights
    }

    /// Whether there is a node that can't reach this one although both are up.
    pub(super) fn is_cut_off(&self, node: NodeId) -> bool {
        self.cuts.load().iter().any(|cut| cut.has(node))
    }

    /// How often the network was found cut.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The network as the status report shows it.
    pub(super) fn status(&self) -> NetworkStatus {
        let link = |node: NodeId| {
            let breaker = self.clients.breaker(node)?;
            let (state, failures) = match breaker.state() {
                State::Closed { failures } => (BreakerState::Closed, failures),
                State::Open { until_ms } if breaker.now_ms() < until_ms => (BreakerState::Open, FAILURES_MAX),
                State::Open { .. } | State::Probing { .. } => (BreakerState::HalfOpen, FAILURES_MAX),
            };
            Some(LinkStatus { node, breaker: state, failures, opened: breaker.opened() })
        };
        NetworkStatus {
            cuts: self.cuts.load().iter().map(|Cut(one, other)| NetworkCut { one: *one, other: *other }).collect(),
            links: self.others().into_iter().filter_map(link).collect(),
        }
    }
}

fn tell(event: &Event, sights: &Sights) {
    let who_sees_whom = || {
        let sees = |sees: &BTreeSet<NodeId>| sees.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",");
        let each = sights.iter().map(|(node, sight)| format!("{node} sees {}", sees(&sight.sees)));
        each.collect::<Vec<_>>().join("; ")
    };
    match event {
        Event::Cut(Cut(one, other)) => {
            tracing::warn!(%one, %other, who_sees_whom = who_sees_whom(), "the network is cut: two nodes can't reach each other though both are up");
        }
        Event::Healed(Cut(one, other), after) => {
            tracing::info!(%one, %other, after_s = after.as_secs(), "the network is whole again: the two nodes reach each other");
        }
        Event::WasCutOff(nodes, time) => {
            let nodes = nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                nodes,
                for_s = time.as_secs(),
                "the network was cut: these nodes were out of sight and ran all the time"
            );
        }
    }
}
