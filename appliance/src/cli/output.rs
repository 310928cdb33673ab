//! What people see of other people's bytes: text that can't move the cursor, ring the bell or pretend to be another line.

use std::fmt::Write as _;

/// Lossy UTF-8 with every control character written out, one line whatever is in it.
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() || is_direction(c) || matches!(c, '\u{2028}' | '\u{2029}') {
            let _ = write!(text, "{}", c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Marks that turn the direction of text: with them a line can show something else than it says.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_control_is_written_out() {
        for (bytes, text) in [
            (&b"hi"[..], "hi"),
            ("grüße 🙂".as_bytes(), "grüße 🙂"),
            (b"a\nb\tc\r", r"a\nb\tc\r"),
            (b"\x1b[2J\x07", r"\u{1b}[2J\u{7}"),
            ("\u{202e}evil".as_bytes(), r"\u{202e}evil"),
            (b"\xff", "\u{fffd}"),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }
}
