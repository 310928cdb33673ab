//! The link's state machine without a network: every rule of `peer` as a short story.

use super::*;
use tokio::sync::{Semaphore, mpsc};

const WINDOWS: Windows = Windows { standby: Duration::from_millis(750), confirm: Duration::from_secs(2) };

struct Story {
    peer: Peer,
    now: Instant,
}

fn story(role: Role) -> Story {
    let now = Instant::now();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 1);
    Story { peer: Peer::new(role, WINDOWS, backoff, true, now), now }
}

fn line() -> Line {
    Line { requests: mpsc::channel(1).0, places: Arc::new(Semaphore::new(1)) }
}

fn id(n: usize) -> ConnectionId {
    ConnectionId::new_unchecked(n)
}

fn words(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|action| match action {
            Action::Dial => "dial".to_owned(),
            Action::Close(id) => format!("close {id}"),
            Action::Greet(id, ..) => format!("greet {id}"),
        })
        .collect()
}

impl Story {
    fn after(&mut self, ms: u64) -> Vec<String> {
        self.now += Duration::from_millis(ms);
        words(&self.peer.tick(self.now))
    }

    fn established(&mut self, n: usize, by_us: bool) -> Vec<String> {
        words(&self.peer.established(id(n), by_us, line(), self.now))
    }

    fn confirmed(&mut self, n: usize) -> Vec<String> {
        words(&self.peer.confirmed(id(n), self.now))
    }

    fn lost(&mut self, n: usize, cause: DownCause) -> Vec<String> {
        words(&self.peer.lost(id(n), cause, self.now))
    }
}

#[test]
fn the_lower_key_dials_at_once_the_higher_a_little_later() {
    assert_eq!(story(Role::Decides).after(0), ["dial"]);
    let mut higher = story(Role::Follows);
    assert!(higher.after(0).is_empty());
    assert_eq!(higher.after(100), ["dial"]);
    assert!(higher.after(5_000).is_empty(), "one dial at a time");
}

#[test]
fn only_the_deciding_side_greets_and_only_one() {
    let mut lower = story(Role::Decides);
    assert_eq!(lower.established(1, true), ["greet 1"]);
    assert!(lower.established(2, false).is_empty());
    let mut higher = story(Role::Follows);
    assert!(higher.established(1, false).is_empty());
    assert!(higher.peer.greeted(id(1)).is_some());
    assert!(lower.peer.greeted(id(1)).is_none(), "a peer that must follow may not greet");
}

#[test]
fn the_confirmed_one_stays_and_the_others_are_closed() {
    for role in [Role::Decides, Role::Follows] {
        let mut story = story(role);
        story.established(1, true);
        story.established(2, false);
        story.peer.greeted(id(1));
        assert_eq!(story.confirmed(1), ["close 2"]);
        assert!(story.peer.state().is_up());
        assert!(story.peer.next_deadline().is_none(), "a settled link waits for nothing");
    }
}

#[test]
fn a_newcomer_goes_when_the_link_still_answers() {
    let mut lower = story(Role::Decides);
    lower.established(1, true);
    lower.confirmed(1);
    let pulse = Arc::clone(&lower.peer.connections[0].pulse);
    lower.now += Duration::from_secs(60);
    assert!(lower.established(2, false).is_empty());
    pulse.answered(lower.now + Duration::from_millis(10));
    assert_eq!(lower.peer.next_deadline(), Some(lower.now + WINDOWS.standby));
    assert_eq!(lower.after(750), ["close 2"]);
    assert!(lower.peer.state().is_up());
}

#[test]
fn a_newcomer_takes_over_from_a_link_that_the_peer_has_lost() {
    let mut lower = story(Role::Decides);
    lower.established(1, true);
    lower.confirmed(1);
    lower.peer.connections[0].pulse.answered(lower.now);
    lower.now += Duration::from_secs(60);
    lower.established(2, false);
    assert_eq!(lower.after(750), ["close 1", "greet 2"]);
    assert!(!lower.peer.state().is_up());
    assert!(lower.confirmed(2).is_empty());
    assert!(lower.peer.state().is_up());
}

#[test]
fn a_lost_link_is_redialled_soon_and_ever_more_slowly() {
    let mut lower = story(Role::Decides);
    assert_eq!(lower.after(0), ["dial"]);
    lower.established(1, true);
    lower.confirmed(1);
    assert!(lower.after(10_000).is_empty());
    assert!(lower.lost(1, DownCause::Silent).is_empty());
    assert!(matches!(lower.peer.state(), PeerState::Down { cause: DownCause::Silent, .. }));
    assert_eq!(lower.after(126), ["dial"]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        lower.peer.dial_failed(DownCause::Unreachable, lower.now);
        let wait = lower.peer.next_deadline().unwrap() - lower.now;
        waits.push(wait);
        lower.now += wait;
        assert_eq!(words(&lower.peer.tick(lower.now)), ["dial"]);
    }
    assert!(waits[0] < Duration::from_millis(300) && waits[7] >= Duration::from_millis(1_500), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(2)), "{waits:?}");
}

#[test]
fn an_inbound_connection_stops_the_redial() {
    let mut higher = story(Role::Follows);
    assert!(higher.peer.next_deadline().is_some());
    higher.established(1, false);
    higher.peer.greeted(id(1));
    higher.confirmed(1);
    assert!(higher.after(60_000).is_empty());
}

#[test]
fn an_unconfirmed_connection_is_closed_and_counts_as_a_failure() {
    for role in [Role::Decides, Role::Follows] {
        let mut story = story(role);
        story.after(100);
        story.established(1, true);
        assert_eq!(story.after(2_000), ["close 1"]);
        assert!(matches!(story.peer.state(), PeerState::Down { cause: DownCause::NotConfirmed, .. }));
        assert!(story.peer.next_deadline().is_some(), "{role:?} dials again");
    }
}

#[test]
fn the_next_connection_is_greeted_when_the_chosen_one_breaks() {
    let mut lower = story(Role::Decides);
    lower.established(1, true);
    lower.established(2, false);
    assert_eq!(lower.lost(1, DownCause::Closed), ["greet 2"]);
    assert!(lower.peer.dial_at.is_none(), "no dial while a connection stands");
}

#[test]
fn late_news_about_forgotten_connections_change_nothing() {
    let mut lower = story(Role::Decides);
    lower.established(1, true);
    lower.confirmed(1);
    assert!(lower.confirmed(9).is_empty() && lower.lost(9, DownCause::Closed).is_empty());
    assert!(lower.peer.state().is_up());
}

#[test]
fn without_an_address_it_waits_to_be_called() {
    let now = Instant::now();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 1);
    let mut peer = Peer::new(Role::Decides, WINDOWS, backoff, false, now);
    assert!(peer.next_deadline().is_none());
    assert!(matches!(peer.state(), PeerState::Down { cause: DownCause::NoAddress, .. }));
    peer.addrs_changed(true, now);
    assert_eq!(words(&peer.tick(now)), ["dial"]);
}

#[test]
fn a_found_address_brings_the_next_dial_forward_but_not_the_pace_back() {
    let mut lower = story(Role::Decides);
    assert_eq!(lower.after(0), ["dial"]);
    for _ in 0..10 {
        lower.peer.dial_failed(DownCause::Unreachable, lower.now);
        lower.now = lower.peer.next_deadline().unwrap();
        assert_eq!(words(&lower.peer.tick(lower.now)), ["dial"]);
    }
    lower.peer.addr_found(lower.now);
    assert!(lower.after(1).is_empty(), "one dial at a time");
    lower.peer.dial_failed(DownCause::Unreachable, lower.now);
    assert!(lower.peer.next_deadline().unwrap() >= lower.now + Duration::from_secs(1), "the pace of a long outage");
    lower.peer.addr_found(lower.now);
    let soon = lower.peer.next_deadline().unwrap() - lower.now;
    assert!(soon >= Duration::from_millis(75) && soon <= Duration::from_millis(125), "{soon:?}");
    assert_eq!(lower.after(125), ["dial"]);
    lower.established(1, true);
    lower.confirmed(1);
    lower.peer.addr_found(lower.now);
    assert!(lower.after(60_000).is_empty(), "a link that stands is left alone");
}

#[test]
fn a_member_known_by_its_key_alone_is_dialled_once_it_is_found() {
    let now = Instant::now();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 1);
    let mut peer = Peer::new(Role::Follows, WINDOWS, backoff, false, now);
    let down = |peer: &Peer| match peer.state() {
        PeerState::Down { cause, .. } => Some(cause),
        PeerState::Up { .. } => None,
    };
    assert_eq!(down(&peer), Some(DownCause::NoAddress));
    peer.addr_found(now);
    assert_eq!(down(&peer), Some(DownCause::Connecting));
    assert_eq!(words(&peer.tick(now + Duration::from_millis(225))), ["dial"]);
    peer.dial_failed(DownCause::Unreachable, now);
    assert_eq!(words(&peer.tick(now + Duration::from_secs(3))), ["dial"], "and again");
    peer.addr_gone(false);
    assert_eq!(down(&peer), Some(DownCause::NoAddress));
    peer.dial_failed(DownCause::Unreachable, now);
    assert!(peer.next_deadline().is_none(), "nowhere to dial");
}

#[test]
fn new_addresses_do_not_start_a_second_dial() {
    let mut lower = story(Role::Decides);
    assert_eq!(lower.after(0), ["dial"]);
    lower.peer.addrs_changed(true, lower.now);
    assert!(lower.after(10).is_empty());
    lower.peer.dial_failed(DownCause::Unreachable, lower.now);
    assert_eq!(lower.after(300), ["dial"]);
}
