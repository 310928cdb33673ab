//! The links of one node from the command line, for tests on real interfaces: says what happens to them, a line each, and ends
//! when its input does, so that it never outlives the test that started it.
//!
//! Lines: `listening ADDR`, `up KEY`, `down KEY CAUSE`, `known KEY SOURCE ADDR`, `stream KEY`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use iris_p2p::{Identity, Inbound, LinkConfig, Links, Member, PeerAddr, PeerKey, PeerState, StreamKind};
use tokio::sync::oneshot;

/// What streams are for here: nothing but being opened.
const KIND: StreamKind = StreamKind(1);

/// Keeps links to members and prints what becomes of them.
#[derive(Debug, Parser)]
struct Arguments {
    /// The identity file; made if it is not there.
    #[arg(long)]
    identity: PathBuf,
    /// Where to listen.
    #[arg(long)]
    listen: Vec<PeerAddr>,
    /// A member: `KEY`, or `KEY=ADDR`.
    #[arg(long)]
    member: Vec<String>,
    /// Announce and discover by mDNS.
    #[arg(long)]
    mdns: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let log = tracing_subscriber::EnvFilter::try_from_env("IRIS_LOG").unwrap_or_else(|_| "iris_p2p=info".into());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(log).init();
    let identity = Identity::load_or_create(&arguments.identity)?;
    let members = arguments.member.iter().map(|text| member(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let config = LinkConfig { listen: arguments.listen, mdns: arguments.mdns, ..LinkConfig::default() };
    let (links, inbound, task) = Links::start(identity, config, members).await?;
    tokio::select! {
        ended = task.run() => ended.context("the links ended"),
        shown = show(&links) => shown,
        taken = take(inbound) => taken,
        closed = end_of_input() => closed,
    }
}

fn member(text: &str) -> anyhow::Result<Member> {
    let (key, addr) = text.split_once('=').map_or((text, None), |(key, addr)| (key, Some(addr)));
    let addrs = addr.map(str::parse).transpose()?.into_iter().collect();
    Ok(Member { key: key.parse()?, addrs })
}

/// Prints every change until the links end. A peer that is up gets a stream, which proves that it is.
async fn show(links: &Links) -> anyhow::Result<()> {
    let (mut states, mut book) = (links.watch(), links.book());
    let mut said = BTreeSet::new();
    loop {
        let mut now = BTreeSet::new();
        now.extend(links.listen_addrs().iter().map(|addr| format!("listening {addr}")));
        let current = states.borrow_and_update().clone();
        for (key, state) in current.iter() {
            match state {
                PeerState::Up { .. } => now.insert(format!("up {key}")),
                PeerState::Down { cause, .. } => now.insert(format!("down {key} {cause:?}")),
            };
            let known = book.borrow_and_update().clone();
            now.extend(known.addrs(key).iter().map(|known| format!("known {key} {:?} {}", known.source, known.addr)));
        }
        let news: Vec<String> = now.difference(&said).cloned().collect();
        for line in &news {
            println!("{line}");
        }
        for key in news.iter().filter_map(|line| line.strip_prefix("up ")?.parse::<PeerKey>().ok()) {
            // A link that broke again is told of by its state.
            let _ = links.open(key, KIND).await;
        }
        said = now;
        tokio::select! {
            changed = states.changed() => changed?,
            changed = book.changed() => changed?,
        }
    }
}

async fn take(mut inbound: Inbound) -> anyhow::Result<()> {
    while let Some((key, _, _)) = inbound.accept().await {
        println!("stream {key}");
    }
    Ok(())
}

/// On a thread of its own: reading from a terminal or a pipe blocks, and nothing waits for that thread at the end.
async fn end_of_input() -> anyhow::Result<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let copied = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        // Nobody waits any more once the links ended.
        let _ = ended.send(copied.map(|_| ()));
    });
    Ok(end.await??)
}
