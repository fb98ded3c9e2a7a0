use proptest::prelude::*;

use super::civil::{Date, days};
use super::*;

mod real;
mod walk;

pub(super) fn utc(year: i64, month: u32, day: u32, hour: i64, minute: i64) -> i64 {
    days(Date { year, month, day }) * 86_400 + hour * 3_600 + minute * 60
}

pub(super) fn cron(text: &str) -> Cron {
    Cron::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

/// Berlin in 2024, by hand: 31 March 02:00 becomes 03:00, 27 October 03:00 becomes 02:00.
pub(super) fn berlin_2024() -> Zone {
    let change = |utc_from_s, offset_s| Change { utc_from_s, offset_s };
    Zone::from_changes(3_600, vec![change(utc(2024, 3, 31, 1, 0), 7_200), change(utc(2024, 10, 27, 1, 0), 3_600)])
}

fn firings(text: &str, zone: &Zone, from_s: i64, until_s: i64) -> Vec<String> {
    let cron = cron(text);
    let next = |after: i64| cron.next_after(zone, after).filter(|at| *at < until_s);
    std::iter::successors(next(from_s - 1), |at| next(*at)).map(|at| rfc3339(at)[5..16].to_owned()).collect()
}

#[test]
fn patterns_say_when() {
    let zone = Zone::utc();
    let (from, until) = (utc(2024, 1, 1, 0, 0), utc(2024, 3, 1, 0, 0));
    for (text, first, count) in [
        ("0 0 1 * *", "01-01T00:00", 2),
        ("30 4 * * *", "01-01T04:30", 60),
        ("*/20 3 * feb *", "02-01T03:00", 87),
        ("0 12 * * MON-Fri", "01-01T12:00", 44),
        ("0 12 * * 7", "01-07T12:00", 8),
        ("0 12 * * 5-7", "01-05T12:00", 24),
        ("0 0 29 2 *", "02-29T00:00", 1),
        ("5,10-12 6 15 1 *", "01-15T06:05", 4),
        ("0 0-23/6 1,2 jan *", "01-01T00:00", 8),
        ("0 12 1 * 1", "01-01T12:00", 10),
        ("0 12 */2 * 1", "01-01T12:00", 5),
        ("@hourly", "01-01T00:00", 1440),
        ("@weekly", "01-07T00:00", 8),
    ] {
        let got = firings(text, &zone, from, until);
        assert_eq!((got[0].as_str(), got.len()), (first, count), "{text}");
    }
}

#[test]
fn a_pattern_that_is_wrong_says_which_field_and_why() {
    for (text, says) in [
        ("* * * *", "this one has 4"),
        ("60 * * * *", "minute: `60` is not a number from 0 to 59"),
        ("* 24 * * *", "hour: `24`"),
        ("* * 0 * *", "day of month: `0`"),
        ("* * * foo *", "month: `foo` is not a number from 1 to 12 or a name"),
        ("* * * * mon-", "day of week: ``"),
        ("+5 * * * *", "minute: `+5`"),
        ("5/10 * * * *", "a step needs `*` or a range"),
        ("*/0 * * * *", "minute: the step `0`"),
        ("20-10 * * * *", "runs backwards"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("@reboot", "none of @hourly"),
        (", * * * *", "minute: ``"),
        ("0 0 L * *", "day of month: `L`"),
    ] {
        let why = Cron::parse(text).unwrap_err();
        assert!(why.contains(says), "{text}: {why}");
    }
    assert!(Cron::parse(&"1,".repeat(200)).unwrap_err().contains("at most 256"));
    assert!(Cron::parse("0 0 30 2 mon").is_ok(), "on Mondays");
}

#[test]
fn a_time_that_does_not_exist_fires_once_after_the_gap() {
    let zone = berlin_2024();
    let (from, until) = (utc(2024, 3, 30, 22, 0), utc(2024, 3, 31, 22, 0));
    for (text, want) in [
        ("30 2 * * *", vec!["03-31T01:00"]),
        ("0,15,30 2 * * *", vec!["03-31T01:00"]),
        ("0 2,3 * * *", vec!["03-31T01:00"]),
        ("30 1,2,3 * * *", vec!["03-31T00:30", "03-31T01:00", "03-31T01:30"]),
        ("*/30 1-3 * * *", vec!["03-31T00:00", "03-31T00:30", "03-31T01:00", "03-31T01:30"]),
        ("*/5 2 * * *", vec![]),
    ] {
        assert_eq!(firings(text, &zone, from, until), want, "{text}");
    }
}

#[test]
fn a_time_that_exists_twice_fires_the_first_time() {
    let zone = berlin_2024();
    let (from, until) = (utc(2024, 10, 26, 23, 0), utc(2024, 10, 27, 3, 0));
    for (text, want) in [
        ("30 2 * * *", vec!["10-27T00:30"]),
        ("0 2,3 * * *", vec!["10-27T00:00", "10-27T02:00"]),
        ("0 * * * *", vec!["10-26T23:00", "10-27T00:00", "10-27T01:00", "10-27T02:00"]),
        ("*/30 2 * * *", vec!["10-27T00:00", "10-27T00:30", "10-27T01:00", "10-27T01:30"]),
    ] {
        assert_eq!(firings(text, &zone, from, until), want, "{text}");
    }
}

fn every_five(missed: Missed) -> Schedule {
    Schedule { patterns: vec![cron("*/5 * * * *")], zone: Zone::utc(), missed }
}

#[test]
fn an_outage_of_three_hours_with_a_pattern_of_five_minutes() {
    let down = utc(2024, 5, 1, 9, 0);
    let up = down + 3 * 3_600 + 120;
    for (missed, runs) in
        [(Missed::None, 0), (Missed::Latest, 1), (Missed::All { max: 10 }, 10), (Missed::All { max: 100 }, 36)]
    {
        let due = every_five(missed).due(down, up);
        assert_eq!((due.firings.len(), due.dropped), (runs, 36 - runs as u32), "{missed:?}");
        assert_eq!((due.watermark_s, due.next_s), (down + 3 * 3_600, Some(down + 3 * 3_600 + 300)));
        assert!(due.firings.last().is_none_or(|last| *last == due.watermark_s), "the newest ones");
        assert_eq!(every_five(missed).due(due.watermark_s, up).firings, [], "never twice");
    }
}

#[test]
fn what_is_on_time_is_not_missed() {
    let at = utc(2024, 5, 1, 9, 0);
    for (late, runs) in [(0, 1), (ON_TIME_S, 1), (ON_TIME_S + 1, 0)] {
        assert_eq!(every_five(Missed::None).due(at - 300, at + late).firings.len(), runs, "{late} s late");
    }
}

#[test]
fn a_clock_that_goes_back_an_hour_fires_nothing_twice() {
    let noon = utc(2024, 5, 1, 12, 0);
    let schedule = every_five(Missed::Latest);
    let mut watermark = noon - 300;
    let mut fired = Vec::new();
    for now in (noon..noon + 600).step_by(30).chain((noon - 3_000..noon + 900).step_by(30)) {
        let due = schedule.due(watermark, now);
        assert!(due.next_s > Some(watermark) && due.next_s > Some(now));
        watermark = due.watermark_s;
        fired.extend(due.firings);
    }
    assert_eq!(fired, [noon, noon + 300, noon + 600]);
}

#[test]
fn a_clock_that_goes_ahead_an_hour_leaves_the_policy_to_decide() {
    let noon = utc(2024, 5, 1, 12, 0);
    for (missed, runs) in [(Missed::None, 0), (Missed::Latest, 1), (Missed::All { max: 10 }, 10)] {
        assert_eq!(every_five(missed).due(noon, noon + 3_600 + 90).firings.len(), runs, "{missed:?}");
    }
}

#[test]
fn several_patterns_are_one_list_without_doubles() {
    let day = utc(2024, 5, 1, 0, 0);
    let patterns = ["0 6 * * *", "0 */6 * * *", "0 6 1 * *"].map(cron).to_vec();
    let schedule = Schedule { patterns, zone: Zone::utc(), missed: Missed::All { max: 100 } };
    let due = schedule.due(day, day + 86_399);
    assert_eq!(due.firings, [day + 6 * 3_600, day + 12 * 3_600, day + 18 * 3_600]);
}

#[test]
fn a_machine_that_was_off_for_years_answers_at_once() {
    let schedule = Schedule { patterns: vec![cron("* * * * *")], zone: berlin_2024(), missed: Missed::All { max: 3 } };
    let now = utc(2024, 5, 1, 0, 0);
    let due = schedule.due(utc(1990, 1, 1, 0, 0), now);
    assert_eq!((due.firings, due.dropped), (vec![now - 120, now - 60, now], MISSED_COUNT_MAX - 3));
    let rare = Schedule { patterns: vec![cron("0 0 29 2 *")], zone: Zone::utc(), missed: Missed::Latest };
    assert_eq!(rare.due(utc(1990, 1, 1, 0, 0), now).firings, [utc(2024, 2, 29, 0, 0)]);
    assert_eq!(rare.next_after(utc(1896, 3, 1, 0, 0)), Some(utc(1904, 2, 29, 0, 0)), "1900 had none");
}

proptest! {
    /// However the clock moves and whatever the policy, no firing comes twice, none lies in the future, all rise.
    #[test]
    fn nothing_fires_twice(
        moves in proptest::collection::vec(-7_200i64..14_400, 1..40),
        policy in prop_oneof![Just(Missed::None), Just(Missed::Latest), (1u32..20).prop_map(|max| Missed::All { max })],
    ) {
        let schedule = Schedule { patterns: vec![cron("*/7 * * * *"), cron("30 2 * * *")], zone: berlin_2024(), missed: policy };
        let mut now = utc(2024, 10, 26, 20, 0);
        let (mut watermark, mut last) = (now, now);
        for step in moves {
            now += step;
            let due = schedule.due(watermark, now);
            for at in &due.firings {
                prop_assert!(*at > last && *at <= now);
                last = *at;
            }
            prop_assert!(due.watermark_s >= watermark && due.watermark_s >= last);
            watermark = due.watermark_s;
        }
    }
}
