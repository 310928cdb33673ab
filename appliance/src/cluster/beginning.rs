//! Whether a member of the founders' list may take part before it holds the meta state. Its disk alone can't tell: one that was
//! never in a cluster and one that was emptied look the same, save for the key, and an emptied one may have voted and acked
//! under its id. So it asks every other member of the list. If all say that they know of no cluster either, there is none to have
//! been in; if one knows of it, this disk lost what it promised, and the node must not come back under its old id. Until that is
//! known, it answers no call of Raft's and founds nothing.
//!
//! Who asks says with it that it knows of no cluster, and a member takes part only when everybody has answered. So whoever is
//! slow has been told by all the others before they can found, and does not take the new cluster for one it forgot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iris_protocol::NodeId;
use iris_protocol::versioned;
use tokio_util::sync::CancellationToken;

use super::handler::META_GROUP;
use super::neighbours::Known;
use super::rpc::{Method, RpcClients};
use super::transport::Channel;

/// Between two rounds of asking those that have not answered.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Longest a member may take to answer; it looks into its memory.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Why it is not known.
const STOPPED: &str = "stopped before the other members said whether they know of a cluster";

/// Rounds without a whole answer after which it is said who is missing: all start together, but not at once.
const SAY_AFTER_ROUNDS: u32 = 50;

/// What a member first said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    NoCluster,
    Founded,
}

/// What is known so far.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// These have not answered.
    Wait(Vec<NodeId>),
    /// It may take part.
    Begin,
    /// This one knows the cluster that this node has forgotten.
    Forgot(NodeId),
}

#[derive(Debug, Default)]
struct Heard {
    /// By asking or by answering. The first word counts: a cluster that was founded since is one this node is founding too.
    words: BTreeMap<NodeId, Word>,
    /// Those that answered, and so were told.
    answered: BTreeSet<NodeId>,
}

impl Heard {
    fn note(&mut self, node: NodeId, word: Word) {
        self.words.entry(node).or_insert(word);
    }

    fn judge(&self, others: &BTreeSet<NodeId>, has_log: bool) -> Verdict {
        let founded = self.words.iter().find(|(_, word)| **word == Word::Founded);
        match founded {
            // Its votes and entries are here, whatever the others know.
            _ if has_log => Verdict::Begin,
            Some((node, _)) => Verdict::Forgot(*node),
            None => {
                let missing: Vec<NodeId> = others.difference(&self.answered).copied().collect();
                if missing.is_empty() { Verdict::Begin } else { Verdict::Wait(missing) }
            }
        }
    }
}

/// The gate in front of the meta group.
#[derive(Debug)]
pub(super) struct Beginning {
    open: AtomicBool,
    heard: Mutex<Heard>,
}

impl Beginning {
    /// Open from the start: this node holds the state, or was let in by those that do.
    pub(super) fn known() -> Self {
        Self { open: AtomicBool::new(true), heard: Mutex::default() }
    }

    /// Closed until [`Self::find_out`] says otherwise.
    pub(super) fn unknown() -> Self {
        Self { open: AtomicBool::new(false), heard: Mutex::default() }
    }

    /// Whether this node may answer calls of Raft's.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// This member asked, and so knows of no cluster.
    pub(super) fn asked_by(&self, node: NodeId) {
        self.heard().note(node, Word::NoCluster);
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the others until it is known, or `stop`. `has_log`: something of Raft's is on this disk.
    ///
    /// # Errors
    /// This node was in a cluster and has forgotten it: what to do is in the sentence. Or `stop`: then nobody knows, and nothing may
    /// be founded.
    pub(super) async fn find_out(
        &self,
        node: NodeId,
        others: &BTreeSet<NodeId>,
        has_log: bool,
        clients: &RpcClients,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        for round in 0u32.. {
            let verdict = self.heard().judge(others, has_log);
            match verdict {
                Verdict::Begin => break,
                Verdict::Forgot(by) => return Err(forgot(node, by)),
                Verdict::Wait(missing) => {
                    if round == SAY_AFTER_ROUNDS {
                        tracing::info!(
                            ?missing,
                            "waiting for members of the list: a node whose disk is empty takes part only when every one of them has said that \
                             it knows of no cluster either"
                        );
                    }
                    tokio::select! {
                        () = stop.cancelled() => anyhow::bail!(STOPPED),
                        () = self.ask(&missing, clients) => {}
                    }
                }
            }
            if !matches!(self.heard().judge(others, has_log), Verdict::Wait(_)) {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => anyhow::bail!(STOPPED),
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
        self.open.store(true, Ordering::Release);
        Ok(())
    }

    async fn ask(&self, missing: &[NodeId], clients: &RpcClients) {
        let asked = missing.iter().map(|node| async move {
            let client = clients.get(*node, Channel::Edge).ok()?;
            let answer = client.call(Method::Beginning, META_GROUP, Bytes::new(), ANSWER_DEADLINE).await.ok()?;
            let known: Known = versioned::decode(&answer).ok()?;
            Some((*node, if known.members.is_empty() { Word::NoCluster } else { Word::Founded }))
        });
        let answers = futures::future::join_all(asked).await;
        let mut heard = self.heard();
        for (node, word) in answers.into_iter().flatten() {
            heard.note(node, word);
            heard.answered.insert(node);
        }
    }
}

fn forgot(node: NodeId, by: NodeId) -> anyhow::Error {
    anyhow::anyhow!(
        "this data folder is empty but for its key, and node {by} knows node {node} as a member of a cluster that is founded: the disk was lost \
         or the folder emptied. What this node voted for and acknowledged is forgotten, so it must not come back under its old id; nothing is \
         lost as long as the others have it. To rejoin as a new node: remove the whole folder (identity.key too), take [[members]] out of this \
         node's configuration, run `iris join-token` on another machine and `iris up --join TOKEN --name NEW_NAME` here"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn others() -> BTreeSet<NodeId> {
        [NodeId(2), NodeId(3)].into()
    }

    /// `answers` in the order in which they come; `asked_first`: who asked this node before.
    #[track_caller]
    fn check(has_log: bool, asked_first: &[u64], answers: &[(u64, Word)], expect: Verdict) {
        let mut heard = Heard::default();
        asked_first.iter().for_each(|node| heard.note(NodeId(*node), Word::NoCluster));
        for (node, word) in answers {
            heard.note(NodeId(*node), *word);
            heard.answered.insert(NodeId(*node));
        }
        assert_eq!(heard.judge(&others(), has_log), expect);
    }

    #[test]
    fn all_must_have_said_that_there_is_no_cluster() {
        check(false, &[], &[], Verdict::Wait(vec![NodeId(2), NodeId(3)]));
        check(false, &[], &[(3, Word::NoCluster)], Verdict::Wait(vec![NodeId(2)]));
        check(false, &[2], &[(3, Word::NoCluster)], Verdict::Wait(vec![NodeId(2)]));
        check(false, &[], &[(3, Word::NoCluster), (2, Word::NoCluster)], Verdict::Begin);
        assert_eq!(Heard::default().judge(&BTreeSet::new(), false), Verdict::Begin, "alone on the list");
    }

    #[test]
    fn one_that_knows_the_cluster_is_enough_to_stop_a_node_without_a_log() {
        check(false, &[], &[(2, Word::Founded)], Verdict::Forgot(NodeId(2)));
        check(false, &[3], &[(3, Word::NoCluster), (2, Word::Founded)], Verdict::Forgot(NodeId(2)));
        check(true, &[], &[(2, Word::Founded)], Verdict::Begin);
    }

    #[test]
    fn a_cluster_that_is_founded_meanwhile_was_not_forgotten() {
        check(false, &[2], &[(2, Word::Founded), (3, Word::NoCluster)], Verdict::Begin);
    }

    proptest! {
        /// However the questions and answers of three founders interleave, and whichever answers get lost: as soon as two of them may
        /// take part the cluster may be founded, and then the third never takes it for one that it forgot.
        #[test]
        fn no_founder_takes_the_cluster_it_founds_for_one_it_forgot(steps in prop::collection::vec((0usize..3, 0usize..3, any::<bool>()), 0..60)) {
            let mut heard = [(); 3].map(|()| Heard::default());
            let id = |at: usize| NodeId(at as u64);
            let all: BTreeSet<NodeId> = (0..3).map(id).collect();
            let mut founded = BTreeSet::new();
            for (from, to, lost) in steps {
                if from == to { continue }
                heard[to].note(id(from), Word::NoCluster);
                let word = if founded.contains(&to) { Word::Founded } else { Word::NoCluster };
                if !lost {
                    heard[from].note(id(to), word);
                    heard[from].answered.insert(id(to));
                }
                let open = |at: usize, founded: &BTreeSet<usize>| {
                    let mut others = all.clone();
                    others.remove(&id(at));
                    founded.contains(&at) || heard[at].judge(&others, false) == Verdict::Begin
                };
                let ready: BTreeSet<usize> = (0..3).filter(|at| open(*at, &founded)).collect();
                if ready.len() >= 2 { founded.extend(ready) }
                for heard in &heard {
                    prop_assert!(!heard.words.values().any(|word| *word == Word::Founded));
                }
            }
        }
    }
}
