//! Durations as people type them: `24h`, `90m`, `30s`, `1h30m`, `2d`.

use std::time::Duration;

/// Bytes of a text that may be one; the numbers within stay far from any overflow of the checks below.
const TEXT_LEN_MAX: usize = 32;

/// Reads one, in whole seconds and more than none.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write 30s, 90m, 24h, 2d or 1h30m");
    if text.is_empty() || text.len() > TEXT_LEN_MAX {
        return Err(wrong());
    }
    let (mut rest, mut seconds, mut unit_before) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes().get(digits) {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3_600,
            Some(b'd') => 86_400,
            _ => return Err(wrong()),
        };
        // Largest first and each once: `30m1h` is more likely a slip than a wish.
        if unit >= unit_before {
            return Err(wrong());
        }
        unit_before = unit;
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_understood() {
        for (text, seconds) in [("30s", 30), ("90m", 5_400), ("24h", 86_400), ("2d", 172_800), ("1h30m", 5_400)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let huge = "9".repeat(40) + "s";
        for text in
            ["", "24", "h", "0s", "1.5h", "-1h", "1w", "30m1h", "1h1h", "1hé", "é", "99999999999999999999d", &huge]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
