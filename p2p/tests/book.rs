//! The address book of running links: what it learns, and that it is enough to find a member again.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use iris_p2p::{AddressBook, DownCause, Identity, LinkConfig, Member, PeerState, Source};
use support::{Node, Transport, config, identities, socket, within};

/// Known addresses of `peer` in a node's book: text, source, and whether it ever worked.
fn known(node: &Node, peer: iris_p2p::PeerKey) -> Vec<(String, Source, bool)> {
    let book = node.links.book().borrow().clone();
    book.addrs(peer).iter().map(|known| (known.addr.to_string(), known.source, known.good_ms.is_some())).collect()
}

#[tokio::test]
async fn a_member_whose_address_only_the_book_knows_is_found_after_a_restart() {
    for transport in Transport::BOTH {
        let (caller, called) = identities();
        let called = Node::start(called, config(transport.any_port()), vec![]).await;
        called.links.set_members(vec![Member { key: caller.peer_id(), addrs: vec![] }]);
        let first = Node::start(caller.clone(), config(transport.any_port()), vec![called.as_member()]).await;
        first.up(called.key()).await;
        let mut book = first.links.book();
        let learnt = |book: &std::sync::Arc<AddressBook>| book.addrs(called.key())[0].good_ms.is_some();
        within("the address is noted as good", book.wait_for(learnt)).await.unwrap();
        let book = AddressBook::clone(&book.borrow());
        first.kill().await;
        called.down(caller.peer_id()).await;

        let listing = vec![called.as_caller()];
        let again = Node::start(caller, LinkConfig { book, ..config(transport.any_port()) }, listing).await;
        again.up(called.key()).await;
        assert_eq!(known(&again, called.key()), [(called.addr().to_string(), Source::Remembered, true)]);
    }
}

#[tokio::test]
async fn the_name_that_was_dialled_is_kept_and_what_it_stood_for_is_remembered() {
    let (caller, called) = identities();
    let called = Node::start(called, config(Transport::Tcp.any_port()), vec![]).await;
    called.links.set_members(vec![Member { key: caller.peer_id(), addrs: vec![] }]);
    let named = format!("/dns4/localhost/tcp/{}", socket(&called.addr()).port());
    let member = Member { key: called.key(), addrs: vec![named.parse().unwrap()] };
    let caller = Node::start(caller, config(Transport::Tcp.any_port()), vec![member]).await;
    caller.up(called.key()).await;
    let mut book = caller.links.book();
    within("learnt", book.wait_for(|book| book.addrs(called.key()).len() == 2)).await.unwrap();
    let expect = [(called.addr().to_string(), Source::Remembered, true), (named, Source::Described, false)];
    assert_eq!(known(&caller, called.key()), expect);
}

#[tokio::test]
async fn the_book_admits_nobody_and_forgets_who_is_no_member() {
    let stranger = Node::start(Identity::ephemeral(), config(Transport::Tcp.any_port()), vec![]).await;
    let (caller, _) = identities();
    let first = Node::start(caller.clone(), config(Transport::Tcp.any_port()), vec![stranger.as_member()]).await;
    let book = AddressBook::clone(&first.links.book().borrow());
    assert!(!book.is_empty());
    first.kill().await;
    let again = Node::start(caller, LinkConfig { book, ..config(Transport::Tcp.any_port()) }, vec![]).await;
    assert!(again.links.book().borrow().is_empty());
    assert_eq!(again.links.watch().borrow().get(stranger.key()), None);

    // As a member its address comes with its description, and goes with it.
    again.links.set_members(vec![stranger.as_member()]);
    let tried = |state| matches!(state, Some(PeerState::Down { cause, .. }) if cause != DownCause::Connecting);
    again.until("tried", stranger.key(), tried).await;
    again.links.set_members(vec![stranger.as_caller()]);
    let nowhere = |state| matches!(state, Some(PeerState::Down { cause: DownCause::NoAddress, .. }));
    again.until("nowhere to look", stranger.key(), nowhere).await;
    assert!(again.links.book().borrow().addrs(stranger.key()).is_empty());
}
