//! The messages tests and demo send: 5,574 real text messages (tests/data/README.md says whose).

use std::sync::OnceLock;

use bytes::Bytes;

/// Lines of the file.
pub const CORPUS_LEN: usize = 5_574;

const FILE: &str = include_str!("../data/sms.tsv");

/// The texts in the file's order, without their labels.
#[must_use]
pub fn messages() -> &'static [Bytes] {
    static MESSAGES: OnceLock<Vec<Bytes>> = OnceLock::new();
    MESSAGES.get_or_init(|| {
        // `lines` would also take a lone carriage return off the end of a text.
        let lines = FILE.split('\n').filter(|line| !line.is_empty());
        lines.filter_map(|line| line.split_once('\t')).map(|(_, text)| Bytes::from_static(text.as_bytes())).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_message() {
        assert_eq!(messages().len(), CORPUS_LEN);
        assert!(messages().iter().all(|text| !text.is_empty() && text.len() < 2_000));
        assert!(messages()[0].starts_with(b"Go until jurong point"));
    }
}
