//! A node in quarantine (C12): it has its data folder, its admin socket and its links, and nothing else. Asks the others every second
//! whether they can do without it, and when they can, for a place as a new node; then its old data go aside and the node begins
//! anew in the same process. Where nobody can give it a place it stays as it is, until its operator decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use iris_p2p::{Identity, Links, Member as LinkedMember};
use iris_protocol::NodeId;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::{META_FILE, STOP_DEADLINE, founding, link_config, members};
use crate::admission::{Membership, Origin};
use crate::cluster::meta::NodeRecord;
use crate::cluster::transport::over_links;
use crate::cluster::{Aloof, MemberKeys, Members, Standing, healthy_without, peek};
use crate::config::Config;
use crate::quarantine::{Damage, Note, Stage, folder};
use crate::supervise::Supervisor;
use crate::surroundings::Surroundings;

mod admin;

use admin::QuarantineAdmin;

/// Between two rounds of asking.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How a quarantine ended.
pub(super) enum Ended {
    /// The process is to stop.
    Stopped,
    /// The folder is a new node's.
    ComesBack,
}

/// Notes damage, before anything else is done about it: from here on no start goes on with these data.
///
/// # Errors
/// The note can't be written: the disk does not do even that.
pub(super) fn enter(config: &Config, damage: Damage, surroundings: &Surroundings) -> anyhow::Result<()> {
    let data = &config.node.data;
    tracing::error!(what = damage.what, "this node's data are damaged; it leaves its groups and goes into quarantine");
    let note = Note { what: damage.what, found_ms: surroundings.clock.unix_ms(), stage: Stage::Waiting };
    // A full disk must not hide it: without the note the next start would serve what is damaged.
    let saved = note.save(data).or_else(|_| {
        crate::disk::make_room(data, config.store.reserve_bytes);
        note.save(data)
    });
    saved.context("this node's data are damaged, and that can't even be noted in its data folder")
}

/// What happens next, as `iris status` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// Nobody was asked yet.
    Asking,
    /// There is nobody to ask, and why.
    Alone(String),
    /// The others can't do without it now, and why.
    Waiting(String),
}

/// Stays in quarantine until there is a way out of it.
///
/// # Errors
/// The folder is in use, or what is to be moved can't be.
pub(super) async fn stay(
    config: &Config,
    note: &Note,
    surroundings: &Surroundings,
    stop: &CancellationToken,
) -> anyhow::Result<Ended> {
    let data = &config.node.data;
    let socket = crate::admin::bind(data)?;
    if note.stage != Stage::Waiting {
        folder::come_back(data, note)?;
        return Ok(Ended::ComesBack);
    }
    let (supervisor, known) = (Supervisor::new(), Known::of(config));
    let next = watch::Sender::new(Next::Asking);
    let (members_now, others) = (watch::Sender::new(known.members.clone()), known.others());
    let source = Arc::new(QuarantineAdmin {
        note: note.clone(),
        node: known.node,
        cluster: known.cluster.clone(),
        listen: config.node.listen.clone(),
        members: members_now.subscribe(),
        next: next.subscribe(),
    });
    tracing::error!(what = note.what, "in quarantine: this node serves nobody; `iris status` says what happens next");
    let socket = Arc::new(Mutex::new(Some(socket)));
    supervisor.spawn("admin socket", move |stop| {
        let (socket, source) = (socket.clone(), source.clone());
        async move {
            match socket.lock().await.take() {
                Some(socket) => crate::admin::serve(socket, source, stop).await,
                None => anyhow::bail!("the admin socket was lost"),
            }
        }
    });
    let identity = match known.identity(data) {
        Ok(identity) if !others.is_empty() => Some(identity),
        Ok(_) => {
            next.send_replace(Next::Alone("there is no other node that could have its messages".to_owned()));
            None
        }
        Err(why) => {
            next.send_replace(Next::Alone(why));
            None
        }
    };
    let given = tokio::select! {
        () = stop.cancelled() => Ok(None),
        given = async {
            let Some(identity) = identity else { return std::future::pending().await };
            Asking::start(config, identity, known, note, &supervisor, members_now, next).await?.run().await
        } => given.map(Some),
        why = supervisor.fatal() => Err(anyhow::anyhow!("this node had to end: {why}")),
    };
    // The links and the socket are free again when it returns.
    supervisor.shut_down(STOP_DEADLINE).await;
    let Some(place) = given? else { return Ok(Ended::Stopped) };
    place.save(&folder::next(data)?)?;
    let note = Note { stage: Stage::MovingAside(folder::name(surroundings.clock.unix_ms())), ..note.clone() };
    note.save(data)?;
    folder::come_back(data, &note)?;
    tracing::warn!(node = %place.node, "this node comes back as a new one; its old data are kept aside");
    Ok(Ended::ComesBack)
}

/// What can still be read of who this node is and who the others are.
struct Known {
    node: Option<NodeId>,
    cluster: String,
    members: Members,
}

impl Known {
    /// Whatever is damaged is left out: the others know the rest.
    fn of(config: &Config) -> Self {
        let data = &config.node.data;
        let place = Membership::load(data).ok().flatten();
        let state = peek(&data.join(META_FILE)).ok().flatten();
        let listed =
            config.members.iter().filter_map(|member| Some((NodeId(member.id), founding::record(member).ok()?)));
        let mut members: Members = listed.collect();
        members.extend(place.iter().flat_map(|place| place.seeds.iter().cloned()));
        let cluster = place.as_ref().map(|place| place.cluster.clone());
        let cluster = cluster.or_else(|| state.as_ref().map(|state| state.cluster.clone())).unwrap_or_default();
        let mut node = place.map(|place| place.node);
        if let Some(state) = state {
            members = state.nodes;
        }
        if node.is_none() && !config.members.is_empty() {
            node = Some(NodeId(config.node.id));
        }
        Self { node, cluster, members }
    }

    fn others(&self) -> BTreeSet<NodeId> {
        self.members.keys().copied().filter(|node| Some(*node) != self.node).collect()
    }

    /// The key that the others know this node by; never a new one.
    fn identity(&self, data: &Path) -> Result<Identity, String> {
        let path = data.join("identity.key");
        if !path.exists() {
            return Err(format!("its key {} is gone, so the others can't tell who it is", path.display()));
        }
        Identity::load_or_create(&path).map_err(|error| error.to_string())
    }
}

/// Links with the others, and what is known of them.
struct Asking<'a> {
    config: &'a Config,
    note: &'a Note,
    known: Known,
    links: Links,
    keys: MemberKeys,
    aloof: Aloof,
    members: watch::Sender<Members>,
    next: watch::Sender<Next>,
}

impl<'a> Asking<'a> {
    async fn start(
        config: &'a Config,
        identity: Identity,
        mut known: Known,
        note: &'a Note,
        supervisor: &Supervisor,
        members: watch::Sender<Members>,
        next: watch::Sender<Next>,
    ) -> anyhow::Result<Self> {
        let mut link_config = link_config(config)?;
        link_config.book = members::load_book(&config.node.data)?;
        let (links, inbound, task) = Links::start(identity, link_config, Vec::new()).await?;
        if known.node.is_none() {
            let own = links.local();
            known.node = known.members.iter().find(|(_, record)| record.key == own).map(|(node, _)| *node);
        }
        let task = Arc::new(Mutex::new(Some(task)));
        supervisor.spawn_critical("peer links", move |stop| async move {
            let Some(task) = task.lock().await.take() else { return Ok(()) };
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = task.run() => Ok(ended?),
            }
        });
        let keys = MemberKeys::default();
        let (transport, acceptor) = over_links(links.clone(), inbound, keys.clone());
        let aloof = Aloof::start(supervisor, Arc::new(transport), Box::new(acceptor));
        let asking = Self { config, note, known, links, keys, aloof, members, next };
        asking.follow();
        Ok(asking)
    }

    /// Brings links and calls in line with who is known.
    fn follow(&self) {
        let members: &BTreeMap<NodeId, NodeRecord> = &self.known.members;
        self.keys.set(members.iter().map(|(node, record)| (*node, record.key)).collect::<HashMap<_, _>>());
        let others = self.known.others();
        let linked = members.iter().filter(|(node, _)| others.contains(node));
        let linked = linked.map(|(_, record)| LinkedMember { key: record.key, addrs: record.p2p.clone() });
        self.links.set_members(linked.collect());
        self.aloof.set_others(&others);
        self.members.send_replace(members.clone());
    }

    /// Asks until there is a place.
    async fn run(mut self) -> anyhow::Result<Membership> {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            let answers = self.aloof.ask(&self.known.others(), &self.note.what).await;
            let why = match healthy_without(&answers) {
                Ok((leader, standing)) => match self.ask_for_place(leader, standing).await? {
                    Ok(place) => return Ok(place),
                    Err(why) => why,
                },
                Err(why) => why,
            };
            let news = self.next.send_if_modified(|now| {
                let waiting = Next::Waiting(why.clone());
                let news = *now != waiting;
                *now = waiting;
                news
            });
            if news {
                tracing::warn!(why, "this node stays in quarantine for now");
            }
            // Members may have come meanwhile.
            let newest = answers.into_iter().map(|(_, answer)| answer).find(|answer| answer.you.is_some());
            if let Some(answer) = newest.filter(|answer| answer.members != self.known.members) {
                (self.known.node, self.known.members) = (answer.you, answer.members);
                self.follow();
            }
        }
    }

    /// Asks the meta group's leader for a place under a key of its own, which is on disk before the others know it.
    async fn ask_for_place(&self, leader: NodeId, standing: &Standing) -> anyhow::Result<Result<Membership, String>> {
        let Some((me, old)) = standing.you.and_then(|me| Some((me, standing.members.get(&me)?))) else {
            return Ok(Err("the others do not count this node among their members".to_owned()));
        };
        let next = folder::next(&self.config.node.data)?;
        let key = Identity::load_or_create(&next.join("identity.key"))?.peer_id();
        let record = NodeRecord { key, ..old.clone() };
        Ok(self.aloof.ask_for_place(leader, record).await.map(|node| {
            let seeds = standing.members.iter().filter(|(id, _)| **id != me && **id != node);
            Membership {
                node,
                key,
                cluster: standing.cluster.clone(),
                origin: Origin::Joined,
                settled: false,
                seeds: seeds.map(|(id, record)| (*id, record.clone())).collect(),
                ca_pem: standing.ca_pem.clone(),
            }
        }))
    }
}
