//! When the network is told where an address is: often at first, because announcements get lost, then so that switches do not forget.

use std::time::Duration;

use crate::Timestamp;

/// After a claim or a conflict, since its moment.
const SERIES: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Those of the series that a conflict asks for: two hosts that answered each other at once would never stop.
const DEFENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// Switches forget an address after five minutes of silence.
const PERIOD: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub(super) struct Announcer {
    since: Timestamp,
    left: &'static [Duration],
    last: Timestamp,
    on: bool,
}

impl Announcer {
    pub(super) fn claimed(&mut self, now: Timestamp) {
        (self.since, self.left, self.on) = (now, &SERIES, true);
    }

    /// A series under way is not begun anew by each packet of the other host.
    pub(super) fn contested(&mut self, now: Timestamp) {
        if self.on && self.left.is_empty() {
            (self.since, self.left) = (now, &DEFENCE);
        }
    }

    pub(super) fn stop(&mut self) {
        *self = Announcer::default();
    }

    pub(super) fn due(&self) -> Timestamp {
        match (self.on, self.left.first()) {
            (false, _) => Timestamp::NEVER,
            (true, Some(after)) => self.since + *after,
            (true, None) => self.last + PERIOD,
        }
    }

    /// True when one is due; several that were slept through are one.
    pub(super) fn take(&mut self, now: Timestamp) -> bool {
        if now < self.due() {
            return false;
        }
        self.left = self.left.split_first().map_or(&[], |(_, rest)| rest);
        while self.left.first().is_some_and(|after| self.since + *after <= now) {
            self.left = &self.left[1..];
        }
        self.last = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(announcer: &mut Announcer, from: u64, to: u64) -> Vec<u64> {
        (from..=to).step_by(50).filter(|ms| announcer.take(Timestamp::from_millis(*ms))).collect()
    }

    #[test]
    fn a_claim_is_told_five_times_at_once_and_then_again() {
        let mut announcer = Announcer::default();
        assert!(told(&mut announcer, 0, 100_000).is_empty(), "nothing to tell");
        announcer.claimed(Timestamp::from_millis(1000));
        let want = [1000, 1100, 1200, 1300, 1400, 2000, 6000, 31_000, 91_000, 151_000];
        assert_eq!(told(&mut announcer, 1000, 160_000), want);
        announcer.stop();
        assert_eq!(announcer.due(), Timestamp::NEVER);
    }

    #[test]
    fn each_packet_of_another_host_is_not_answered_by_one() {
        let mut announcer = Announcer::default();
        announcer.claimed(Timestamp::ZERO);
        told(&mut announcer, 0, 31_000);
        let mut sent = Vec::new();
        for ms in (40_000..80_000).step_by(50) {
            announcer.contested(Timestamp::from_millis(ms));
            sent.extend(announcer.take(Timestamp::from_millis(ms)).then_some(ms));
        }
        assert_eq!(sent, [41_000, 45_000, 70_000, 71_050, 75_050]);
    }
}
