//! From the cluster's members to the links: whom the gate lets in, where each is dialled, which key each has. Follows the
//! roster, so that a member that joins is let in, and one that is removed is cut off, on every node by itself.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use iris_p2p::{AddressBook, Links, Member, PeerKey};
use iris_protocol::NodeId;
use iris_protocol::versioned;
use iris_store::{StoreError, read_checked, write_checked};
use tokio::sync::watch;

use crate::cluster::meta::NodeRecord;
use crate::cluster::{MemberKeys, Members};
use crate::supervise::Supervisor;

/// The file of the address book, in the data folder, and its version: the book's own comes on top.
const BOOK_FILE: &str = "addresses";
const BOOK_FILE_VERSION: u16 = 1;

/// Between two writes of it, save for the last: anybody on the local network can make it change often, and it shares its disk with
/// the log.
const WRITE_BOOK_EVERY: Duration = Duration::from_secs(10);

/// The others, as the links want them.
fn for_links(members: &BTreeMap<NodeId, NodeRecord>, me: NodeId) -> Vec<Member> {
    let others = members.iter().filter(|(id, _)| **id != me);
    others.map(|(_, record)| Member { key: record.key, addrs: record.p2p.clone() }).collect()
}

/// Who has which key.
fn keys(members: &BTreeMap<NodeId, NodeRecord>) -> HashMap<NodeId, PeerKey> {
    members.iter().map(|(id, record)| (*id, record.key)).collect()
}

/// Brings the links in line with these members.
fn apply(members: &BTreeMap<NodeId, NodeRecord>, me: NodeId, links: &Links, member_keys: &MemberKeys) {
    // Keys first: a stream from a new member must find its node.
    member_keys.set(keys(members));
    links.set_members(for_links(members, me));
}

/// Keeps the links in line with the roster.
pub(super) fn follow(
    supervisor: &Supervisor,
    roster: &watch::Sender<Members>,
    me: NodeId,
    links: Links,
    member_keys: MemberKeys,
) {
    let roster = roster.subscribe();
    supervisor.spawn("links' members", move |stop| {
        let (mut roster, links, member_keys) = (roster.clone(), links.clone(), member_keys.clone());
        async move {
            loop {
                apply(&roster.borrow_and_update(), me, &links, &member_keys);
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = roster.changed() => changed?,
                }
            }
        }
    });
}

/// Where members were found when this node ran last. A damaged book is begun anew: it only shortens the search.
pub(super) fn load_book(data: &Path) -> anyhow::Result<AddressBook> {
    let path = data.join(BOOK_FILE);
    let read = match read_checked(&path) {
        Ok(None) => return Ok(AddressBook::default()),
        Ok(Some((BOOK_FILE_VERSION, bytes))) => versioned::decode(&bytes).map_err(|error| error.to_string()),
        Ok(Some((other, _))) => Err(format!("version {other}, this Iris reads {BOOK_FILE_VERSION}")),
        Err(StoreError::Corrupt { why, .. }) => Err(why),
        Err(error) => return Err(error.into()),
    };
    Ok(read.unwrap_or_else(|why| {
        tracing::warn!(path = %path.display(), why, "the address book can't be read and is begun anew");
        AddressBook::default()
    }))
}

/// Keeps the address book on disk. One that can't be written costs a longer search after the next start, no more.
pub(super) fn keep_book(supervisor: &Supervisor, links: &Links, data: &Path) {
    let (book, path) = (links.book(), data.join(BOOK_FILE));
    supervisor.spawn("address book", move |stop| {
        let (mut book, path) = (book.clone(), path.clone());
        async move {
            loop {
                let (path, bytes) = (path.clone(), versioned::encode(&**book.borrow_and_update()));
                let written = crate::blocking::run(move || write_checked(&path, BOOK_FILE_VERSION, &bytes));
                if let Err(error) = written.await? {
                    tracing::warn!(%error, "the address book can't be written");
                }
                if stop.is_cancelled() {
                    return Ok(());
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(WRITE_BOOK_EVERY) => tokio::select! {
                        () = stop.cancelled() => {}
                        changed = book.changed() => changed?,
                    }
                }
            }
        }
    });
}
