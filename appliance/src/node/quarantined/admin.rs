//! What a node in quarantine answers on its admin socket: one sentence, and no to everything else.

use futures::future::BoxFuture;
use iris_protocol::NodeId;
use iris_protocol::admin::{
    ConnectInfo, Counters, Health, HealthLevel, IssuedJoinToken, JoinTokenRequest, NetworkStatus, NodeStatus,
    StatusReport, UserToken, UserTokenRequest,
};
use tokio::sync::watch;

use super::Next;
use crate::admin::AdminSource;
use crate::calendar::utc;
use crate::cluster::Members;
use crate::quarantine::Note;

/// The node, as its operator sees it.
pub(super) struct QuarantineAdmin {
    pub(super) note: Note,
    pub(super) node: Option<NodeId>,
    pub(super) cluster: String,
    pub(super) listen: String,
    pub(super) members: watch::Receiver<Members>,
    pub(super) next: watch::Receiver<Next>,
}

impl QuarantineAdmin {
    fn no<T>(&self) -> Result<T, String> {
        Err(sentence(&self.note, &self.next.borrow()))
    }
}

/// What is damaged, what that means, what happens next, what to do.
pub(super) fn sentence(note: &Note, next: &Next) -> String {
    let next = match next {
        Next::Asking => {
            "It asks the other nodes whether they can do without it; then it comes back by itself as a new node."
                .to_owned()
        }
        Next::Waiting(why) => format!(
            "It comes back by itself as a new node, with the old data kept aside, as soon as the others can do without it; now \
             {why}. Start those that are down; where there are none, the others need this node for a majority: then keep a copy of \
             its data folder, stop it and run `iris store discard --confirm`."
        ),
        Next::Alone(why) => format!(
            "It can't come back by itself: {why}. Nothing was deleted. Keep a copy of the data folder and see what is whole in it \
             (`iris store check`); to begin anew without these data, stop this node and run `iris store discard --confirm`."
        ),
    };
    format!(
        "This node is in quarantine since {} UTC and serves nobody, because its own data are damaged: {}. {next}",
        utc(note.found_ms),
        note.what.trim_end_matches('.'),
    )
}

impl AdminSource for QuarantineAdmin {
    fn status(&self) -> BoxFuture<'_, StatusReport> {
        let members = self.members.borrow().clone();
        let nodes = members.iter().map(|(id, record)| NodeStatus {
            id: *id,
            name: record.name.clone(),
            client: record.client.clone(),
            up: false,
            newcomer: false,
            leads: 0,
        });
        let report = StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.unwrap_or_default(),
            pid: std::process::id(),
            cluster: self.cluster.clone(),
            ca_sha256: String::new(),
            listen: self.listen.clone(),
            p2p: Vec::new(),
            health: Health { level: HealthLevel::Stopped, sentence: sentence(&self.note, &self.next.borrow()) },
            nodes: nodes.collect(),
            groups: Vec::new(),
            network: NetworkStatus::default(),
            counters: Counters::default(),
            disk: None,
        };
        Box::pin(std::future::ready(report))
    }

    fn user_token(&self, _: UserTokenRequest) -> BoxFuture<'_, Result<UserToken, String>> {
        Box::pin(std::future::ready(self.no()))
    }

    fn join_token(&self, _: JoinTokenRequest) -> BoxFuture<'_, Result<IssuedJoinToken, String>> {
        Box::pin(std::future::ready(self.no()))
    }

    fn connect_info(&self) -> BoxFuture<'_, Result<ConnectInfo, String>> {
        Box::pin(std::future::ready(self.no()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quarantine::Stage;

    #[test]
    fn the_sentence_says_what_is_damaged_and_what_happens_next() {
        let note = Note { what: "the log is damaged.".to_owned(), found_ms: 1_795_262_400_000, stage: Stage::Waiting };
        let check = |next: Next, parts: &[&str]| {
            let sentence = sentence(&note, &next);
            for part in
                ["since 2026-11-21 12:00:00 UTC", "serves nobody", "damaged: the log is damaged. "].iter().chain(parts)
            {
                assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
            }
        };
        check(Next::Asking, &["by itself as a new node"]);
        check(
            Next::Waiting("no other node answers".to_owned()),
            &["kept aside", "now no other node answers", "Start those"],
        );
        check(Next::Alone("nobody is there".to_owned()), &["Nothing was deleted", "`iris store discard --confirm`"]);
    }
}
