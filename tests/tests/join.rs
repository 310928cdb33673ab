//! Admission (C2) with real processes: what a token opens, what it doesn't and what is said then, crashes on the way, and that a
//! folder belongs to one cluster for ever. What a node that joined does as a member is in `growing.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iris_appliance::admission::{JoinToken, Newcomer, join, token::JoinSecret};
use iris_appliance::surroundings::Surroundings;
use iris_tests::cluster::{Cluster, Options};
use iris_tests::command::{Ran, run};
use iris_tests::raw::RawConnection;
use iris_tests::wait::wait_for;
use tempfile::TempDir;
use x509_parser::prelude::*;

const DEADLINE: Duration = Duration::from_secs(60);

async fn lone() -> Cluster {
    Cluster::found(Options::nodes(1)).await.unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A machine with nothing on it.
struct Machine {
    dir: TempDir,
    name: &'static str,
}

impl Machine {
    fn new(name: &'static str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), name }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn has_place(&self) -> bool {
        self.data().join("membership").exists()
    }

    /// `iris up --join TOKEN` that is expected to end.
    async fn up(&self, token: &str) -> Ran {
        let data = self.data();
        let ports = ["--listen", "127.0.0.1:0", "--p2p", "127.0.0.1:0"];
        let named = ["up", "--data", text(&data), "--name", self.name, "--join", token];
        run(&[&named[..], &ports[..]].concat()).await
    }

    #[track_caller]
    fn assert_refused(&self, ran: &Ran, part: &str) {
        assert_eq!(ran.code, Some(1), "{part}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "no {part:?} in: {}", ran.stderr);
        assert!(!self.has_place(), "{part}: a refused machine has no place");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_token_that_opens_nothing_says_why() {
    let mut cluster = lone().await;
    let others = lone().await;
    let data = cluster.node(0).data.clone();
    let (nas, good) = (Machine::new("nas"), cluster.join_token(0).await.unwrap());
    let parsed: JoinToken = good.parse().unwrap();

    nas.assert_refused(&nas.up("garbage").await, "this is no join token");
    nas.assert_refused(&nas.up(&good[..good.len() - 3]).await, "damaged");
    let wrong = JoinToken { secret: JoinSecret::new([9; 32]), ..parsed.clone() };
    nas.assert_refused(&nas.up(&wrong.expose()).await, "secret is wrong");
    let foreign: JoinToken = others.join_token(0).await.unwrap().parse().unwrap();
    let misled = JoinToken { addresses: cluster.addresses(), ..foreign.clone() };
    nas.assert_refused(&nas.up(&misled.expose()).await, "belongs to another cluster");
    let unknown = JoinToken { id: foreign.id, ..parsed.clone() };
    nas.assert_refused(&nas.up(&unknown.expose()).await, "does not know this join token");
    let namesake = Machine::new("node-1");
    namesake.assert_refused(&namesake.up(&good).await, "has a member called node-1 already (node 1)");

    let short = run(&["join-token", "--ttl", "1s", "--json", "--data", text(&data)]).await.json().remove(0);
    let expires_ms = short["expires_unix_ms"].as_u64().unwrap();
    let clock = Surroundings::system().clock;
    wait_for("the token to expire", DEADLINE, async || match clock.unix_ms() > expires_ms {
        true => Ok(()),
        false => Err("not yet".into()),
    })
    .await
    .unwrap();
    nas.assert_refused(&nas.up(short["token"].as_str().unwrap()).await, "expired at");

    // None of that used the good one up.
    let index = cluster.add_machine(&good).unwrap();
    cluster.start_node(index).unwrap();
    cluster.wait_joined(index).await.unwrap();
    nas.assert_refused(&nas.up(&good).await, "used already, by node-2 (node 2) at");
    assert_eq!(cluster.status(0).await.unwrap().nodes.len(), 2);
    assert!(!cluster.node(0).has_logged(&good), "no token in a log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_token_prints_one_and_refuses_a_life_of_days() {
    let cluster = lone().await;
    let data = text(&cluster.node(0).data);
    let plain = run(&["join-token", "--data", data]).await;
    assert_eq!((plain.code, plain.stdout.lines().count(), plain.stderr.as_str()), (Some(0), 1, ""));
    let token: JoinToken = plain.stdout.parse().unwrap();
    assert_eq!(token.addresses, cluster.addresses());
    assert_ne!(run(&["join-token", "--data", data]).await.stdout, plain.stdout);
    let long = run(&["join-token", "--ttl", "25h", "--data", data]).await;
    assert!(long.code == Some(1) && long.stderr.contains("1 second to 24 hours"), "{}", long.stderr);
}

/// The machine died between the cluster's decision and its own note of it: the answer is given again, to the same key only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_strands_no_machine() {
    let mut cluster = lone().await;
    let token = cluster.join_token(0).await.unwrap();
    let index = cluster.add_machine(&token).unwrap();
    let key = run(&["identity", "--data", text(&cluster.node(index).data)]).await.stdout;
    let newcomer = Newcomer {
        token: token.parse().unwrap(),
        key: key.trim().parse().unwrap(),
        name: "node-2".to_owned(),
        p2p: Vec::new(),
        client: cluster.addresses()[1].clone(),
        bound: cluster.addresses()[1].parse().unwrap(),
    };
    let place = join(&newcomer, &*Surroundings::system().random, &|_| {}).await.unwrap();
    assert_eq!(place.node.0, 2);
    let nas = Machine::new("nas");
    nas.assert_refused(&nas.up(&token).await, "used already");

    cluster.start_node(index).unwrap();
    cluster.wait_joined(index).await.unwrap();
    // And killed right after it: the next start takes up its place, with or without the token.
    cluster.kill9(index).unwrap();
    assert!(cluster.node(index).data.join("membership").exists());
    let asked = cluster.node(index).log_tail().matches("asking").count();
    cluster.start_node(index).unwrap();
    wait_for("the node to listen again", DEADLINE, async || {
        let dialled = tokio::net::TcpStream::connect(cluster.node(index).client_port.address()).await;
        dialled.map(drop).map_err(|error| error.to_string().into())
    })
    .await
    .unwrap();
    assert_eq!(cluster.node(index).log_tail().matches("asking").count(), asked, "it asks no more");
    assert!(cluster.node(index).has_logged("the token was not needed"));
    assert_eq!(cluster.status(0).await.unwrap().nodes.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_lets_in_whoever_leads() {
    let mut cluster = Cluster::start(3).await.unwrap();
    let report = cluster.status(0).await.unwrap();
    let leader = report.groups.iter().find(|group| group.shard.is_none()).unwrap().leader.unwrap();
    let others: Vec<usize> = (0..3).filter(|at| cluster.node(*at).id != leader).collect();
    for at in others {
        wait_for("this member to know of those before", DEADLINE, async || {
            let known = cluster.status(at).await.map_err(|error| format!("{error:#}"))?.nodes.len();
            if known == cluster.len() { Ok(()) } else { Err(format!("{known} members").into()) }
        })
        .await
        .unwrap();
        let mut token: JoinToken = cluster.join_token(at).await.unwrap().parse().unwrap();
        assert_eq!(token.addresses[0], cluster.addresses()[at], "its own first");
        assert_eq!(token.addresses.len(), 3.max(cluster.len()), "and all the others");
        token.addresses.truncate(1);
        let index = cluster.add_machine(&token.expose()).unwrap();
        cluster.start_node(index).unwrap();
        cluster.wait_joined(index).await.unwrap();
    }
    let names: Vec<String> = cluster.status(0).await.unwrap().nodes.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["node-1", "node-2", "node-3", "node-4", "node-5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_belongs_to_one_cluster_for_ever() {
    let mut cluster = lone().await;
    let others = lone().await;
    let theirs = others.join_token(0).await.unwrap();
    cluster.stop(0).await.unwrap();
    let config = cluster.node(0).config.clone();
    let up = async |token: &str| run(&["up", "--config", text(&config), "--join", token]).await;

    let refused = up(&theirs).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("A node belongs to one cluster"), "{}", refused.stderr);
    // Its note is gone, its data is not: as after a crash between the two.
    let data = cluster.node(0).data.clone();
    let note = std::fs::read(data.join("membership")).unwrap();
    std::fs::remove_file(data.join("membership")).unwrap();
    let refused = up(&theirs).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("holds a cluster of its own"), "{}", refused.stderr);
    cluster.heal().await.unwrap();
    let id = cluster.status(0).await.unwrap().cluster;
    assert_eq!(std::fs::read(data.join("membership")).unwrap(), note, "noted again, the same");
    cluster.stop(0).await.unwrap();

    // Its data is gone, its note is not: no second cluster is founded under the same name.
    for gone in ["log", "meta", "inboxes.db"] {
        let path = data.join(gone);
        let aside = data.join(format!("{gone}.aside"));
        std::fs::rename(path, aside).unwrap();
    }
    let ports = ["--listen", "127.0.0.1:0", "--p2p", "127.0.0.1:0"];
    let lost = run(&[&["up", "--config", text(&config)][..], &ports[..]].concat()).await;
    assert!(lost.code == Some(1) && lost.stderr.contains("its log is gone"), "{}", lost.stderr);
    std::fs::remove_dir_all(data.join("log")).unwrap();
    for back in ["log", "meta", "inboxes.db"] {
        std::fs::rename(data.join(format!("{back}.aside")), data.join(back)).unwrap();
    }
    cluster.heal().await.unwrap();
    assert_eq!(cluster.status(0).await.unwrap().cluster, id);
    assert_eq!(others.status(0).await.unwrap().nodes.len(), 1, "the token was used by nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_waits_to_be_let_in_can_be_stopped() {
    let mut cluster = lone().await;
    let token = cluster.join_token(0).await.unwrap();
    let index = cluster.add_machine(&token).unwrap();
    cluster.kill9(0).unwrap();
    cluster.start_node(index).unwrap();
    wait_for("the machine to ask in vain", DEADLINE, async || {
        let tail = cluster.node(index).log_tail();
        if tail.matches("asking").count() > 1 { Ok(()) } else { Err(tail.into()) }
    })
    .await
    .unwrap();
    cluster.stop(index).await.unwrap();
    assert!(!cluster.node(index).data.join("membership").exists());
    cluster.start_node(0).unwrap();
    cluster.start_node(index).unwrap();
    cluster.wait_joined(index).await.unwrap();
}

/// Three at once, each with a token of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_join_side_by_side_all_become_members() {
    let mut cluster = lone().await;
    let mut started = Vec::new();
    for _ in 0..3 {
        let token = cluster.join_token(0).await.unwrap();
        started.push(cluster.add_machine(&token).unwrap());
    }
    for index in &started {
        cluster.start_node(*index).unwrap();
    }
    // Which of them gets which id is decided by who knocks first.
    for index in 0..=started.len() {
        wait_for("everybody to know of four members that were heard from", DEADLINE, async || {
            let report = cluster.status(index).await.map_err(|error| format!("{error:#}"))?;
            let names: BTreeSet<&str> = report.nodes.iter().map(|node| node.name.as_str()).collect();
            let all = names == BTreeSet::from(["node-1", "node-2", "node-3", "node-4"]);
            match all && report.nodes.iter().all(|node| node.up && !node.newcomer) {
                true => Ok(()),
                false => Err(format!("node {index}: {:?}", report.nodes).into()),
            }
        })
        .await
        .unwrap();
    }
}

/// Machines that are set up from one place have the founders' file, also those that came later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_joined_may_have_the_founders_list() {
    let mut cluster = lone().await;
    let index = cluster.join(0).await.unwrap();
    cluster.stop(index).await.unwrap();
    let (path, key) = (cluster.node(index).config.clone(), iris_p2p::Identity::ephemeral().peer_id());
    let list = format!(
        "\n[[members]]\nid = 2\nname = \"pi\"\nkey = \"{key}\"\np2p = [\"127.0.0.1:9\"]\nclient = \"127.0.0.1:9\"\n"
    );
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + &list).unwrap();
    cluster.start_node(index).unwrap();
    cluster.wait_ready().await.unwrap();
    let status = cluster.status(index).await.unwrap();
    assert_eq!((status.nodes.len(), status.node.0), (2, 2));
    assert_eq!(status.nodes[1].name, "node-2", "it is known as it calls itself");
}

/// Names and public key of the certificate a node shows.
async fn shown(cluster: &Cluster) -> (Vec<String>, Vec<u8>) {
    let connection = RawConnection::dial(&cluster.addresses()[0], cluster.ca_pem().unwrap()).await.unwrap();
    let leaf = connection.certificate();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    let names = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    (names.collect(), leaf.public_key().raw.to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_names_a_new_node_under_the_same_key() {
    let mut cluster = lone().await;
    let (names, key) = shown(&cluster).await;
    assert_eq!(names, ["iris.internal", "localhost", "node-1"]);
    cluster.join(0).await.unwrap();
    wait_for("the new node's name in the certificate", DEADLINE, async || match shown(&cluster).await {
        (names, same_key) if names.contains(&"node-2".to_owned()) => {
            assert_eq!(same_key, key, "devices may pin it");
            Ok(())
        }
        (names, _) => Err(format!("{names:?}").into()),
    })
    .await
    .unwrap();
}
