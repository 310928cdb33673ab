//! Which node to try next. Pure. The addresses the caller gave are tried in rotation for ever; those a GOAWAY named are hints:
//! tried once, before the others, and forgotten, so that no node can lead a client away from the addresses it was given.

use std::collections::VecDeque;

use iris_protocol::limits::ADDRESSES_MAX;

use crate::config::is_address;

#[derive(Debug)]
pub(crate) struct Rotation {
    known: Vec<String>,
    next: usize,
    hints: VecDeque<String>,
}

impl Rotation {
    /// `known` is not empty ([`crate::ClientConfig::check`] sees to it).
    pub(crate) fn new(known: Vec<String>, start_at: usize) -> Self {
        Self { known, next: start_at, hints: VecDeque::new() }
    }

    /// How many addresses make one round.
    pub(crate) fn known_len(&self) -> usize {
        self.known.len()
    }

    /// The address to try now.
    pub(crate) fn next(&mut self) -> String {
        if let Some(hint) = self.hints.pop_front() {
            return hint;
        }
        let address = self.known[self.next % self.known.len()].clone();
        self.next = (self.next + 1) % self.known.len();
        address
    }

    /// A node that goes away named others. Those the client knows anyway keep their turn; the node itself is no advice.
    pub(crate) fn hint(&mut self, addresses: Vec<String>, leaving: &str) {
        self.hints = addresses.into_iter().filter(|it| is_address(it) && it != leaving).take(ADDRESSES_MAX).collect();
        if self.known[self.next] == leaving {
            self.next = (self.next + 1) % self.known.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn known_addresses_come_round() {
        let mut rotation = Rotation::new(names(&["a:1", "b:1"]), 1);
        let tried: Vec<_> = (0..4).map(|_| rotation.next()).collect();
        assert_eq!(tried, ["b:1", "a:1", "b:1", "a:1"]);
    }

    #[test]
    fn hints_are_tried_once_and_never_lead_back_or_astray() {
        let mut rotation = Rotation::new(names(&["a:1", "b:1"]), 0);
        assert_eq!(rotation.next(), "a:1");
        rotation.hint(names(&["a:1", "nonsense", "c:1"]), "a:1");
        let tried: Vec<_> = (0..3).map(|_| rotation.next()).collect();
        assert_eq!(tried, ["c:1", "b:1", "a:1"]);
    }
}
