//! Durations, sizes and shares as the file spells them, read and printed.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// `"500ms"`, `"5s"`, `"1m30s"`: whole numbers with units, largest first.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut micros: u64 = 0;
    let mut units = DURATION_UNITS.iter();
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest)?;
        let (_, factor) = units.by_ref().find(|(name, _)| *name == unit)?;
        micros = micros.checked_add(number.checked_mul(*factor)?)?;
        rest = tail;
    }
    Some(Duration::from_micros(micros))
}

/// The shortest spelling that [`parse_duration`] reads back; what is below a microsecond is dropped.
pub fn format_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS {
        let n = left / factor;
        if n > 0 {
            text += &format!("{n}{unit}");
            left %= factor;
        }
    }
    text
}

/// `"64MiB"` (powers of 1024) or `"64MB"` (powers of 1000).
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, tail) = number_and_unit(text)?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    if tail.is_empty() { number.checked_mul(*factor) } else { None }
}

/// In the largest unit of 1024 that leaves a whole number.
pub fn format_size(bytes: u64) -> String {
    let whole = SIZE_UNITS[..4].iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// `"99.9%"` as 0.999.
pub fn parse_percent(text: &str) -> Option<f64> {
    let digits = text.strip_suffix('%')?.trim_end();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    // Dividing the decimal text, not the binary number, keeps 99.9% equal to 0.999.
    let value: f64 = format!("{digits}e-2").parse().ok()?;
    value.is_finite().then_some(value)
}

/// 0.999 as `99.9%`.
pub fn format_percent(share: f64) -> String {
    let text = format!("{:.6}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `64MiB rest` into 64, `MiB` and what follows the unit.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (unit, tail) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_what_they_print() {
        for (text, micros) in [
            ("500ms", 500_000),
            ("5s", 5_000_000),
            ("1m30s", 90_000_000),
            ("0s", 0),
            ("1d", 86_400_000_000),
            ("7us", 7),
        ] {
            let got = parse_duration(text).unwrap();
            assert_eq!(got, Duration::from_micros(micros), "{text}");
            assert_eq!(format_duration(got), text);
        }
        for text in
            ["", "5", "s", "5 s", "1.5s", "30s1m", "5s5s", "-1s", "5sec", "99999999999999999999s", "999999999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_read_back_what_they_print() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1KiB", 1024), ("1000B", 1000), ("1536B", 1536), ("3GiB", 3 << 30)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        assert_eq!(format_size(64 << 20), "64MiB");
        assert_eq!(format_size(1000), "1000B");
        assert_eq!(parse_size("5MB"), Some(5_000_000));
        for text in ["", "64", "64 MiB", "64Mi", "1.5GiB", "64MiB1KiB", "99999999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn percents_are_exact() {
        assert_eq!(parse_percent("99.9%"), Some(0.999));
        assert_eq!(parse_percent("99.95 %"), Some(0.9995));
        assert_eq!(format_percent(0.9995), "99.95%");
        assert_eq!(format_percent(0.2), "20%");
        for text in ["99.9", "%", "-1%", "1e3%", "1.2.3%", "nan%"] {
            assert_eq!(parse_percent(text), None, "{text}");
        }
    }
}
