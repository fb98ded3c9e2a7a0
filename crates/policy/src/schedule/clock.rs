//! Whether the wall clock can be trusted: it is compared with the time since boot, which never jumps.

use crate::Timestamp;

/// Corrections that a running time service makes are below a second; a wall clock that moved further was set.
pub const JUMP_S: i64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Steady,
    /// The wall clock went ahead (or, below zero, back) by so many seconds since the last look: schedules pause.
    Jumped {
        by_s: i64,
    },
    /// It jumped before, by so many seconds in sum, and nobody resumed since.
    Paused {
        by_s: i64,
    },
    /// It is back where it was before the jump: schedules go on by themselves.
    Returned,
}

/// One for each process. A clock that drifts is followed; one that jumps pauses schedules until somebody says that it is right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Boot time and wall time of the last look.
    last: Option<(Timestamp, i64)>,
    /// How far off it is, while paused.
    off_s: Option<i64>,
}

impl Clock {
    /// `wall_s` is in seconds UTC. The first look believes what it sees.
    pub fn look(&mut self, boot: Timestamp, wall_s: i64) -> Look {
        let last = self.last.replace((boot, wall_s));
        let by_s = last.map_or(0, |(then, wall_then)| drift(then, wall_then, boot, wall_s));
        let jumped = by_s.abs() > JUMP_S;
        match self.off_s {
            None if jumped => {
                self.off_s = Some(by_s);
                Look::Jumped { by_s }
            }
            None => Look::Steady,
            Some(off) if jumped && (off + by_s).abs() <= JUMP_S => {
                self.off_s = None;
                Look::Returned
            }
            Some(off) => {
                let off = off.saturating_add(if jumped { by_s } else { 0 });
                self.off_s = Some(off);
                Look::Paused { by_s: off }
            }
        }
    }

    pub fn is_paused(&self) -> bool {
        self.off_s.is_some()
    }

    /// The clock is right as it is now. What lies between the watermark and now is missed, as after an outage.
    pub fn resume(&mut self) {
        self.off_s = None;
    }
}

fn drift(then: Timestamp, wall_then: i64, boot: Timestamp, wall_s: i64) -> i64 {
    let elapsed = i64::try_from(boot.since(then).as_secs()).unwrap_or(i64::MAX);
    wall_s.saturating_sub(wall_then).saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(clock: &mut Clock, boot_s: u64, wall_s: i64) -> Look {
        clock.look(Timestamp::from_millis(boot_s * 1000), wall_s)
    }

    #[test]
    fn drift_is_followed_and_a_jump_pauses_until_resumed() {
        let mut clock = Clock::default();
        for n in 0..100 {
            assert_eq!(look(&mut clock, 10 + n, 1_000 + n as i64 * 2), Look::Steady, "a second each second is no jump");
        }
        let wall = 1_198;
        assert_eq!(look(&mut clock, 110, wall + 3_601), Look::Jumped { by_s: 3_600 });
        assert!(clock.is_paused());
        assert_eq!(look(&mut clock, 111, wall + 3_602), Look::Paused { by_s: 3_600 });
        assert_eq!(look(&mut clock, 112, wall + 7_203), Look::Paused { by_s: 7_200 });
        clock.resume();
        assert_eq!(look(&mut clock, 113, wall + 7_204), Look::Steady);
        assert_eq!(look(&mut clock, 114, wall), Look::Jumped { by_s: -7_205 });
    }

    #[test]
    fn a_clock_that_comes_back_goes_on_by_itself() {
        let mut clock = Clock::default();
        assert_eq!(look(&mut clock, 0, 0), Look::Steady);
        assert_eq!(look(&mut clock, 1, -3_599), Look::Jumped { by_s: -3_600 });
        assert_eq!(look(&mut clock, 9, 9), Look::Returned);
        assert!(!clock.is_paused());
    }

    #[test]
    fn the_limit_is_five_seconds() {
        for (wall, steady) in [(15, true), (16, false), (5, true), (4, false)] {
            let mut clock = Clock::default();
            look(&mut clock, 0, 0);
            assert_eq!(look(&mut clock, 10, wall) == Look::Steady, steady, "{wall}");
        }
    }
}
