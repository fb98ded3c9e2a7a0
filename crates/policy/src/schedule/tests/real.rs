//! Zones of the tz database: read from the machine where it has them, and one written down for machines that have not.

use std::fs;

use super::super::civil::rfc3339;
use super::super::posix::Rule;
use super::super::*;
use super::{firings, utc};

const ZONEINFO: &str = "/usr/share/zoneinfo";

/// `None` on a machine without the database.
fn zone(name: &str) -> Option<Zone> {
    let bytes = fs::read(format!("{ZONEINFO}/{name}")).ok()?;
    Some(Zone::from_tzif(&bytes).unwrap_or_else(|why| panic!("{name}: {why}")))
}

#[test]
fn known_transitions_of_real_zones() {
    for (name, at, before, after) in [
        ("Europe/Berlin", utc(1980, 4, 6, 1, 0), 3_600, 7_200),
        ("Europe/Berlin", utc(2024, 3, 31, 1, 0), 3_600, 7_200),
        ("Europe/Berlin", utc(2024, 10, 27, 1, 0), 7_200, 3_600),
        ("Europe/Berlin", utc(2060, 3, 28, 1, 0), 3_600, 7_200),
        ("Europe/Berlin", utc(2060, 10, 31, 1, 0), 7_200, 3_600),
        ("America/New_York", utc(2025, 3, 9, 7, 0), -18_000, -14_400),
        ("America/New_York", utc(2099, 11, 1, 6, 0), -14_400, -18_000),
        ("Australia/Lord_Howe", utc(2025, 4, 5, 15, 0), 39_600, 37_800),
        ("Australia/Lord_Howe", utc(2050, 10, 1, 15, 30), 37_800, 39_600),
        ("Pacific/Apia", utc(2011, 12, 30, 10, 0), -36_000, 50_400),
    ] {
        let Some(zone) = zone(name) else { continue };
        let got = (zone.offset_at(at - 1), zone.offset_at(at));
        assert_eq!(got, (before, after), "{name} at {}", rfc3339(at));
    }
    if let Some(zone) = zone("Etc/UTC") {
        assert_eq!((zone.offset_at(0), zone.offset_at(utc(2500, 7, 1, 0, 0))), (0, 0));
    }
}

#[test]
fn nights_of_real_zones() {
    for (name, text, day, want) in [
        ("Europe/Berlin", "30 2 * * *", utc(2055, 3, 28, 0, 0), vec!["03-28T01:00"]),
        ("Europe/Berlin", "30 2 * * *", utc(2055, 10, 31, 0, 0), vec!["10-31T00:30"]),
        ("America/New_York", "30 2 * * *", utc(2025, 3, 9, 5, 0), vec!["03-09T07:00"]),
        ("America/New_York", "30 1 * * *", utc(2025, 11, 2, 4, 0), vec!["11-02T05:30"]),
        ("Australia/Lord_Howe", "15 2 * * *", utc(2025, 10, 4, 14, 0), vec!["10-04T15:30"]),
        ("Australia/Lord_Howe", "45 1 * * *", utc(2025, 4, 5, 12, 0), vec!["04-05T14:45"]),
        ("Pacific/Apia", "0 12 30 12 *", utc(2011, 12, 30, 9, 0), vec!["12-30T10:00"]),
    ] {
        let Some(zone) = zone(name) else { continue };
        assert_eq!(firings(text, &zone, day, day + 86_400), want, "{text} in {name}");
    }
}

/// Also those that a version of the database brings later: none is refused, and no offset is out of all bounds.
#[test]
fn every_zone_of_the_machine_can_be_read() {
    let mut left = vec![std::path::PathBuf::from(ZONEINFO)];
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.flatten().map(|e| e.path()).filter(|p| !p.is_symlink()) {
            if path.is_dir() && !path.ends_with("right") {
                left.push(path);
            } else if let Some(bytes) = fs::read(&path).ok().filter(|b| b.starts_with(b"TZif")) {
                let zone = Zone::from_tzif(&bytes).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
                for year in [1900, 1970, 2024, 2100] {
                    assert!(zone.offset_at(utc(year, 7, 1, 0, 0)).abs() <= 16 * 3_600, "{}", path.display());
                }
            }
        }
    }
}

#[test]
fn rules_of_posix() {
    for (text, at, offset) in [
        ("UTC0", utc(2024, 7, 1, 0, 0), 0),
        ("<-0330>3:30", utc(2024, 7, 1, 0, 0), -12_600),
        ("CET-1CEST,M3.5.0,M10.5.0/3", utc(2024, 7, 1, 0, 0), 7_200),
        ("IST-1GMT0,M10.5.0,M3.5.0/1", utc(2024, 1, 1, 0, 0), 0),
        ("EST5EDT,0/0,J365/25", utc(2024, 1, 1, 5, 0), -14_400),
        ("EST5EDT,0/0,J365/25", utc(2024, 12, 31, 23, 59), -14_400),
        ("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", utc(2024, 3, 31, 0, 59), -7_200),
        ("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", utc(2024, 3, 31, 1, 0), -3_600),
        ("AAA0BBB,J60/0,J61/0", utc(2024, 3, 1, 0, 0), 3_600),
        ("AAA0BBB,59/0,60/0", utc(2024, 2, 29, 0, 0), 3_600),
    ] {
        let rule = Rule::parse(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(rule.segment(at).offset_s, offset, "{text} at {}", rfc3339(at));
    }
    let wrong =
        ["", "A0", "UTC", "UTC25", "CET-1CEST", "CET-1CEST,M3.5.0", "CET-1CEST,M13.5.0,M10.5.0", "UTC0 ", "A<B0"];
    for text in wrong {
        assert_eq!(Rule::parse(text), None, "{text}");
    }
}

/// A version 2 file with one change at 1000 and the rule of Berlin.
fn small() -> Vec<u8> {
    let header = |version: u8, counts: [u32; 6]| {
        let mut bytes = b"TZif".to_vec();
        bytes.push(version);
        bytes.extend([0; 15]);
        bytes.extend(counts.iter().flat_map(|n| n.to_be_bytes()));
        bytes
    };
    let local = |offset: i32| [&offset.to_be_bytes()[..], &[0, 0]].concat();
    let mut bytes = header(b'2', [0, 0, 0, 0, 1, 4]);
    bytes.extend([local(0), b"OLD\0".to_vec()].concat());
    bytes.extend(header(b'2', [0, 0, 0, 1, 2, 4]));
    bytes.extend([&1_000i64.to_be_bytes()[..], &[1], &local(0), &local(3_600), b"NEW\0"].concat());
    bytes.extend(b"\nCET-1CEST,M3.5.0,M10.5.0/3\n");
    bytes
}

#[test]
fn a_file_is_read_and_one_that_is_cut_or_wrong_is_refused() {
    let bytes = small();
    let zone = Zone::from_tzif(&bytes).unwrap();
    assert_eq!([999, 1_000, utc(2024, 7, 1, 0, 0)].map(|at| zone.offset_at(at)), [0, 3_600, 7_200]);
    for len in 0..bytes.len() {
        assert!(Zone::from_tzif(&bytes[..len]).is_err(), "cut to {len}");
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        Zone::from_tzif(&bytes).unwrap_err()
    };
    let data = 44 + 6 + 4 + 44;
    assert_eq!(with(data + 8, 2), TzifError::Type);
    assert_eq!(with(44 + 6 + 4 + 20 + 11, 1), TzifError::LeapSeconds);
    assert_eq!(with(bytes.len() - 3, b'x'), TzifError::Footer { text: "CET-1CEST,M3.5.0,M10.5.0x3".into() });
    assert_eq!(with(0, b'X'), TzifError::NoMagic);
    assert_eq!(Zone::from_tzif(&vec![0; TZIF_BYTES_MAX + 1]), Err(TzifError::TooLong { bytes: TZIF_BYTES_MAX + 1 }));
}
