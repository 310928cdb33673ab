//! The address book's rules as short stories, and what holds after any story.

use iris_protocol::versioned;
use proptest::prelude::*;

use super::*;
use crate::Identity;

fn key() -> PeerKey {
    Identity::ephemeral().peer_id()
}

fn addr(n: u8) -> PeerAddr {
    PeerAddr::tcp(([10, 0, 0, n], 7400).into())
}

fn addrs(range: std::ops::RangeInclusive<u8>) -> Vec<PeerAddr> {
    range.map(addr).collect()
}

fn check(book: &AddressBook, member: PeerKey, expect: &[(u8, Source)]) {
    let found: Vec<(PeerAddr, Source)> =
        book.addrs(member).iter().map(|entry| (entry.addr.clone(), entry.source)).collect();
    let expect: Vec<(PeerAddr, Source)> = expect.iter().map(|(n, source)| (addr(*n), *source)).collect();
    assert_eq!(found, expect);
}

use Source::{Described, Discovered, Remembered};

#[test]
fn the_last_good_one_comes_first_then_the_described_in_their_order() {
    let (mut book, member) = (AddressBook::default(), key());
    book.describe(member, &[addr(3), addr(1), addr(2)], 1);
    assert!(book.discovered(member, addr(9), 2));
    check(&book, member, &[(3, Described), (1, Described), (2, Described), (9, Discovered)]);
    book.good(member, addr(9), 3);
    book.good(member, addr(2), 4);
    check(&book, member, &[(2, Described), (9, Discovered), (3, Described), (1, Described)]);
    book.good(member, addr(9), 5);
    check(&book, member, &[(9, Discovered), (2, Described), (3, Described), (1, Described)]);
}

#[test]
fn whatever_is_discovered_the_described_stay() {
    let (mut book, member) = (AddressBook::default(), key());
    book.describe(member, &addrs(1..=8), 1);
    for n in 100..200 {
        book.discovered(member, addr(n), u64::from(n));
    }
    let described = book.addrs(member).iter().filter(|entry| entry.source == Described).count();
    assert_eq!((described, book.addrs(member).len()), (8, 8 + DISCOVERED_MAX));
    assert_eq!(book.addrs(member)[8].addr, addr(199), "of the discovered, the newest");
}

#[test]
fn an_expired_one_goes_unless_it_worked() {
    let (mut book, member) = (AddressBook::default(), key());
    book.discovered(member, addr(1), 1);
    book.discovered(member, addr(2), 2);
    book.good(member, addr(2), 3);
    book.expired(member, &addr(1));
    book.expired(member, &addr(2));
    check(&book, member, &[(2, Remembered)]);
    assert!(!book.discovered(member, addr(2), 4), "nothing new to dial");
    check(&book, member, &[(2, Discovered)]);
}

#[test]
fn the_network_cannot_expire_what_is_described() {
    let (mut book, member) = (AddressBook::default(), key());
    book.describe(member, &[addr(1)], 1);
    assert!(!book.discovered(member, addr(1), 2));
    book.expired(member, &addr(1));
    check(&book, member, &[(1, Described)]);
}

#[test]
fn a_new_description_replaces_the_old_one_and_keeps_the_way_that_worked() {
    let (mut book, member) = (AddressBook::default(), key());
    book.describe(member, &[addr(1), addr(2)], 1);
    book.good(member, addr(1), 2);
    book.describe(member, &[addr(3)], 3);
    check(&book, member, &[(1, Remembered), (3, Described)]);
    book.describe(member, &[addr(1)], 4);
    check(&book, member, &[(1, Described)]);
}

#[test]
fn after_many_changes_of_address_the_newest_are_there_and_the_last_good_one() {
    let (mut book, member) = (AddressBook::default(), key());
    for n in 1..=4 {
        book.discovered(member, addr(n), u64::from(n));
        book.good(member, addr(n), 10 + u64::from(n));
    }
    for n in 5..=7 {
        assert!(book.discovered(member, addr(n), u64::from(n)), "{n}");
    }
    check(&book, member, &[(4, Discovered), (7, Discovered), (6, Discovered), (5, Discovered)]);
}

#[test]
fn a_restart_remembers_the_best_and_forgets_the_stale() {
    let (mut book, member, other) = (AddressBook::default(), key(), key());
    book.describe(member, &[addr(1)], 1);
    book.discovered(member, addr(2), 2);
    book.discovered(member, addr(3), 3);
    book.good(member, addr(2), 4);
    book.discovered(other, addr(4), 5);
    let bytes = versioned::encode(&book);
    let read = |now_ms| versioned::decode::<AddressBook>(&bytes).unwrap().reopened(now_ms);
    check(&read(10), member, &[(2, Remembered), (1, Described), (3, Remembered)]);
    check(&read(10), other, &[(4, Remembered)]);
    let much_later = read(5 + REMEMBERED_MS + 1);
    check(&much_later, member, &[(1, Described)]);
    check(&much_later, other, &[]);
    let mut later = read(10);
    later.retain(|key| key == other);
    check(&later, member, &[]);
    check(&later, other, &[(4, Remembered)]);
}

/// Written by the first version of this format. It must be read for as long as that version may have left a file.
#[test]
fn the_first_format_is_still_read() {
    let member: PeerKey = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5".parse().unwrap();
    let mut book = AddressBook::default();
    book.describe(member, &["nas.local:7400".parse().unwrap()], 1_700_000_000_000);
    book.discovered(member, "/ip4/10.0.0.2/udp/7400/quic-v1".parse().unwrap(), 1_700_000_000_001);
    book.good(member, addr(7), 1_700_000_000_002);
    assert_eq!(versioned::decode::<AddressBook>(include_bytes!("../fixtures/address_book_v1")).unwrap(), book);
    assert_eq!(versioned::encode(&book), include_bytes!("../fixtures/address_book_v1"));
}

#[derive(Debug, Clone)]
enum Step {
    Describe(Vec<u8>),
    Discovered(u8),
    Expired(u8),
    Good(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::btree_set(0..20_u8, 0..8).prop_map(|set| Step::Describe(set.into_iter().collect())),
        (0..20_u8).prop_map(Step::Discovered),
        (0..20_u8).prop_map(Step::Expired),
        (0..20_u8).prop_map(Step::Good),
        Just(Step::Reopen),
    ]
}

proptest! {
    #[test]
    fn after_any_story_the_book_is_bounded_ordered_and_complete(steps in prop::collection::vec(step(), 0..60)) {
        let (mut book, member) = (AddressBook::default(), key());
        let (mut described, mut last_good) = (Vec::new(), None);
        for (now_ms, step) in (1..).zip(steps) {
            match step {
                Step::Describe(set) => {
                    described = set.into_iter().map(addr).collect();
                    book.describe(member, &described, now_ms);
                }
                Step::Discovered(n) => {
                    book.discovered(member, addr(n), now_ms);
                    prop_assert!(book.addrs(member).iter().any(|entry| entry.addr == addr(n)), "the newest is there");
                }
                Step::Expired(n) => book.expired(member, &addr(n)),
                Step::Good(n) => {
                    book.good(member, addr(n), now_ms);
                    last_good = Some(addr(n));
                }
                Step::Reopen => book = versioned::decode::<AddressBook>(&versioned::encode(&book)).unwrap().reopened(now_ms),
            }
            let known = book.addrs(member);
            let count = |source| known.iter().filter(|entry| entry.source == source).count();
            prop_assert_eq!(count(Described), described.len());
            prop_assert!(count(Discovered) <= DISCOVERED_MAX && count(Remembered) <= REMEMBERED_MAX);
            prop_assert!(described.iter().all(|addr| known.iter().any(|entry| entry.addr == *addr)));
            prop_assert!(known.iter().enumerate().all(|(at, entry)| known[..at].iter().all(|other| other.addr != entry.addr)));
            prop_assert!(known.is_sorted_by_key(|entry| Reverse(entry.good_ms)));
            prop_assert_eq!(known.iter().find(|entry| entry.good_ms.is_some()).map(|entry| entry.addr.clone()), last_good.clone());
        }
    }
}
