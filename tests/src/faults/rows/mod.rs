//! The rows, one a file, in the order of the battery.

mod all_power_cut;
mod bitflip;
mod cascade;
mod clock;
mod disk_full;
mod empty_disk;
mod fsync_eio;
mod hot_inbox;
mod latency;
mod leader_kill9;
mod membership_churn;
mod negative_control;
mod one_power_cut;
mod partition;
mod sigstop_leader;
mod sigterm;
mod slow_disk;
mod soak;
mod torn_write;

use super::Row;

/// All but the soak, which takes an hour and is run by its name.
pub const ALL: &[Row] = &[
    leader_kill9::ROW,
    all_power_cut::ROW,
    one_power_cut::ROW,
    negative_control::ROW,
    torn_write::ROW,
    bitflip::ROW,
    empty_disk::ROW,
    fsync_eio::ROW,
    disk_full::ROW,
    slow_disk::ROW,
    clock::ROW,
    partition::ROW,
    sigstop_leader::ROW,
    membership_churn::ROW,
    hot_inbox::ROW,
    cascade::ROW,
    sigterm::ROW,
    latency::ROW,
];

/// The long one.
pub const SOAK: &Row = &soak::ROW;

/// The row of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Row> {
    ALL.iter().chain([SOAK]).find(|row| row.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_each_rows_own() {
        for (at, row) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|other| other.name != row.name && other.number != row.number), "{}", row.name);
            assert!(row.rounds.short > 0 && row.rounds.long >= row.rounds.short, "{}", row.name);
        }
    }
}
