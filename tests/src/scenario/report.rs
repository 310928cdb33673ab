//! What a play came to, as the line the issue asks for and as a yes or no. Pure.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::oracle::Verdict;

/// Kills a play has.
const KILLS: usize = 2;

/// The outcome of a play.
#[derive(Debug, Clone)]
pub struct Report {
    /// Messages that should have been delivered.
    pub messages: usize,
    /// Judged by what the receivers were shown.
    pub received: Verdict,
    /// Judged by what every inbox holds, read through every node.
    pub stored: Verdict,
    /// Nodes killed.
    pub kills: usize,
    /// Longest time without any ack while sends waited for one.
    pub longest_gap: Duration,
    /// Errors the client library let through.
    pub errors: Vec<String>,
    /// SENDs it repeated.
    pub resends: u64,
    /// Times it reconnected.
    pub reconnects: u64,
}

impl Report {
    /// The worse of what was shown and what is stored.
    #[must_use]
    pub fn worst(&self) -> Verdict {
        self.received.clone().worst(self.stored.clone())
    }

    /// Whether every message was delivered once and in order, through the kills, and nothing else is wrong either.
    #[must_use]
    pub fn is_success(&self) -> bool {
        let worst = self.worst();
        self.kills == KILLS
            && worst.is_clean()
            && worst.delivered == self.messages
            && worst.intended == self.messages
            && self.errors.is_empty()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { delivered, lost, duplicated, reordered, .. } = self.worst();
        write!(
            f,
            "demo: delivered {delivered}/{} lost {lost} duplicated {duplicated} reordered {reordered} kills {} longest_gap_ms {}",
            self.messages,
            self.kills,
            self.longest_gap.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let verdict = Verdict { intended: 5574, acked: 5574, delivered: 5574, ..Verdict::default() };
        Report {
            messages: 5574,
            received: verdict.clone(),
            stored: verdict,
            kills: 2,
            longest_gap: Duration::from_micros(812_900),
            errors: Vec::new(),
            resends: 1,
            reconnects: 1,
        }
    }

    #[test]
    fn the_last_line_is_the_contract() {
        let line = "demo: delivered 5574/5574 lost 0 duplicated 0 reordered 0 kills 2 longest_gap_ms 812";
        assert_eq!(good().to_string(), line);
        assert!(good().is_success());
    }

    #[test]
    fn anything_wrong_anywhere_is_no_success_and_shows() {
        let fails = |change: fn(&mut Report)| {
            let mut report = good();
            change(&mut report);
            assert!(!report.is_success(), "{report}");
            report.to_string()
        };
        assert!(fails(|report| report.received.duplicated = 1).contains("duplicated 1"));
        assert!(fails(|report| report.stored.reordered = 2).contains("reordered 2"));
        assert!(fails(|report| report.stored.lost = 3).contains("lost 3"));
        assert!(fails(|report| report.received.delivered = 5573).contains("delivered 5573/5574"));
        assert!(fails(|report| report.kills = 1).contains("kills 1"));
        fails(|report| report.stored.corrupted = 1);
        fails(|report| report.errors.push("something".into()));
        fails(|report| report.stored.intended = 5573);
    }
}
