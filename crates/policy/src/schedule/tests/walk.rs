//! The planner against a walker that looks at every minute.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::*;
use super::{berlin_2024, utc};

/// Interval patterns: every second-of-zero in UTC whose local time fits. Others: every local minute, placed by search.
fn walk(cron: &Cron, zone: &Zone, from: i64, until: i64) -> Vec<i64> {
    let local = |at: i64| at + i64::from(zone.offset_at(at));
    if cron.is_interval() {
        return (from..until).step_by(60).filter(|at| cron.matches(local(*at))).collect();
    }
    let day = 86_400;
    let minutes = (local(from) - day..local(until) + day).step_by(60).filter(|at| cron.matches(*at));
    let placed: BTreeSet<i64> = minutes.filter_map(|wall| place(zone, wall)).collect();
    placed.into_iter().filter(|at| (from..until).contains(at)).collect()
}

/// The first instant whose local time is `wall`; where there is none, the first whose local time is later.
fn place(zone: &Zone, wall: i64) -> Option<i64> {
    let candidates = (wall - 26 * 3_600..wall + 26 * 3_600).step_by(60);
    let local = |at: i64| at + i64::from(zone.offset_at(at));
    let mut later = None;
    for at in candidates {
        match local(at).cmp(&wall) {
            std::cmp::Ordering::Equal => return Some(at),
            std::cmp::Ordering::Greater if later.is_none() => later = Some(at),
            _ => {}
        }
    }
    later
}

fn planned(cron: &Cron, zone: &Zone, from: i64, until: i64) -> Vec<i64> {
    let next = |after: i64| cron.next_after(zone, after).filter(|at| *at < until);
    std::iter::successors(next(from - 1), |at| next(*at)).collect()
}

/// A field that fires at least now and then within three days.
fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    let value = low..=high;
    prop_oneof![
        2 => Just("*".to_owned()),
        1 => (1u32..7).prop_map(|n| format!("*/{n}")),
        3 => value.clone().prop_map(|n| n.to_string()),
        2 => (value.clone(), value).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

/// Zones that change by 30 minutes to a day, up or down, within the three days that are walked.
fn zone() -> impl Strategy<Value = Zone> {
    let start = utc(2024, 6, 1, 0, 0);
    let change = (0i64..72 * 60, prop_oneof![Just(-60i32), Just(60), Just(30), Just(-30), Just(-1440), Just(1440)]);
    proptest::collection::vec(change, 0..3).prop_map(move |mut changes| {
        changes.sort();
        let mut offset = 0;
        let shift = |(minute, by): (i64, i32)| {
            offset = (offset + by * 60).clamp(-86_400, 86_400);
            Change { utc_from_s: start + minute * 60, offset_s: offset }
        };
        Zone::from_changes(0, changes.into_iter().map(shift).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_planner_agrees_with_the_walker(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 7), weekday in field(0, 7), zone in zone(),
    ) {
        let text = format!("{minute} {hour} {day} 5-7 {weekday}");
        let cron = Cron::parse(&text).unwrap();
        let (from, until) = (utc(2024, 6, 1, 0, 0), utc(2024, 6, 4, 0, 0));
        prop_assert_eq!(planned(&cron, &zone, from, until), walk(&cron, &zone, from, until), "{}", text);
    }
}

#[test]
fn the_walker_agrees_in_both_nights_of_berlin() {
    let zone = berlin_2024();
    for text in ["30 2 * * *", "*/15 * * * *", "0,59 1-3 * * *", "0 0 * * *", "17 */2 * * *", "0 12 27 * 0"] {
        let cron = Cron::parse(text).unwrap();
        for month in [3, 10] {
            let (from, until) = (utc(2024, month, 26, 0, 0), utc(2024, month + 1, 2, 0, 0));
            assert_eq!(planned(&cron, &zone, from, until), walk(&cron, &zone, from, until), "{text} in month {month}");
        }
    }
}
