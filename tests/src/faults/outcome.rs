//! What a row came to, as the line it prints and as a yes or no. Pure.

use std::fmt;

use crate::oracle::Verdict;

/// Figures of a row that ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Faults injected.
    pub rounds: u32,
    /// Messages acked.
    pub committed: usize,
    /// Of these, not there in the end.
    pub lost: usize,
    /// Entries beyond the first that share a key.
    pub duplicated: usize,
    /// Entries in a wrong place.
    pub reordered: usize,
    /// Everything else that breaks a promise: replicas that differ, an entry with another body or id than acked, one that nobody
    /// sent or that was refused.
    pub diverged: usize,
    /// More figures, in the order they are printed.
    pub extra: Vec<(&'static str, String)>,
    /// The first broken promises in words.
    pub problems: Vec<String>,
}

impl Tally {
    /// Counts a verdict in, the worse figure of each.
    pub fn count(&mut self, verdict: Verdict) {
        let diverged =
            verdict.corrupted + verdict.misnumbered + verdict.foreign + verdict.refused_present + verdict.contradicted;
        self.committed = self.committed.max(verdict.acked);
        self.lost = self.lost.max(verdict.lost);
        self.duplicated = self.duplicated.max(verdict.duplicated);
        self.reordered = self.reordered.max(verdict.reordered + verdict.not_increasing);
        self.diverged = self.diverged.max(diverged);
        self.problems.extend(verdict.problems);
    }

    /// Adds what another part of the same row came to.
    pub fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.committed += other.committed;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.diverged += other.diverged;
        self.problems.extend(other.problems);
    }

    /// One more figure.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.extra.push((key, value.to_string()));
        self
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.reordered == 0 && self.diverged == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, committed, lost, duplicated, reordered, diverged, .. } = self;
        write!(
            f,
            "rounds {rounds} committed {committed} lost {lost} duplicated {duplicated} reordered {reordered} diverged {diverged}"
        )?;
        self.extra.iter().try_for_each(|(key, value)| write!(f, " {key} {value}"))
    }
}

/// How a row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran: good if every promise was kept.
    Ran(Tally),
    /// It ran on a product that was broken on purpose: good only if the oracle saw it.
    Control(Tally),
    /// It could not run here, and shows nothing.
    Skipped(String),
}

impl Outcome {
    /// Why this is not what it should be, if it is not.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Ran(tally) if !tally.is_clean() => Some("a promise was broken"),
            Self::Ran(tally) if tally.committed == 0 => Some("nothing was committed: it shows nothing"),
            Self::Control(tally) if tally.lost + tally.diverged == 0 => {
                Some("the product was broken on purpose, and nobody noticed")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ran(tally) | Self::Control(tally) => tally.fmt(f),
            Self::Skipped(reason) => write!(f, "skipped {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran() -> Tally {
        Tally { rounds: 3, committed: 10, ..Tally::default() }
    }

    #[test]
    fn the_line_has_every_figure_and_the_rows_own() {
        let line = Outcome::Ran(ran().with("gap_ms", 7)).to_string();
        assert_eq!(line, "rounds 3 committed 10 lost 0 duplicated 0 reordered 0 diverged 0 gap_ms 7");
        assert_eq!(Outcome::Skipped("no root".into()).to_string(), "skipped no root");
    }

    #[test]
    fn any_broken_promise_is_a_fault_and_so_is_showing_nothing() {
        assert_eq!(Outcome::Ran(ran()).fault(), None);
        let broken = [
            Verdict { lost: 1, ..Verdict::default() },
            Verdict { duplicated: 1, ..Verdict::default() },
            Verdict { not_increasing: 1, ..Verdict::default() },
            Verdict { reordered: 1, ..Verdict::default() },
            Verdict { corrupted: 1, ..Verdict::default() },
            Verdict { misnumbered: 1, ..Verdict::default() },
            Verdict { foreign: 1, ..Verdict::default() },
            Verdict { refused_present: 1, ..Verdict::default() },
            Verdict { contradicted: 1, ..Verdict::default() },
        ];
        for verdict in broken {
            let mut tally = ran();
            tally.count(verdict.clone());
            assert!(Outcome::Ran(tally).fault().is_some(), "{verdict}");
        }
        assert!(Outcome::Ran(Tally::default()).fault().is_some());
    }

    #[test]
    fn a_control_is_good_only_if_the_oracle_saw_it() {
        assert!(Outcome::Control(ran()).fault().is_some());
        assert_eq!(Outcome::Control(Tally { lost: 1, ..ran() }).fault(), None);
        assert_eq!(Outcome::Control(Tally { diverged: 1, ..ran() }).fault(), None);
    }
}
