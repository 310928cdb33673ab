//! The rows, one a file, in the order of the battery.

mod leader_kill9;

use super::Row;

/// All of them.
pub const ALL: &[Row] = &[leader_kill9::ROW];

/// The row of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Row> {
    ALL.iter().find(|row| row.name.eq_ignore_ascii_case(name))
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
