//! Hung or busy? A missed answer alone does not tell; the machine that runs the process can.
//!
//! A stopped process (state T) hangs for certain. Otherwise CPU progress decides: a process that computes is busy
//! with something, one that has used no CPU for [`QUIET_AFTER`] while requests wait on it makes no progress.

use std::time::Duration;

/// No CPU for this long, while somebody waits, is no progress. Five samples at the usual 50 ms.
pub const QUIET_AFTER: Duration = Duration::from_millis(250);

/// What `/proc` says of all processes of an instance together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Every process of it is stopped or traced (T, t).
    pub stopped: bool,
    /// At least one is runnable or in uninterruptible sleep (R, D): it waits for the machine, not for itself.
    pub runnable: bool,
    /// CPU time used since the last sample.
    pub cpu: Duration,
    /// Time since the last sample.
    pub elapsed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough seen.
    Unknown,
    /// Stopped: will not answer until somebody continues it.
    Stopped,
    /// Waiting requests and no progress.
    Quiet,
    Busy,
}

/// Follows one incarnation while requests wait on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    quiet_for: Duration,
    seen: bool,
}

impl Watch {
    /// A sample that came very late says that this watcher was starved, and nothing about the instance.
    pub fn sample(&mut self, sample: Sample) -> Verdict {
        if sample.stopped {
            return Verdict::Stopped;
        }
        if sample.runnable || !sample.cpu.is_zero() {
            *self = Watch { quiet_for: Duration::ZERO, seen: true };
            return Verdict::Busy;
        }
        self.quiet_for += sample.elapsed.min(QUIET_AFTER / 2);
        match self.quiet_for >= QUIET_AFTER {
            true => Verdict::Quiet,
            false if self.seen => Verdict::Busy,
            false => Verdict::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_resets_the_quiet_time() {
        let idle = Sample { stopped: false, runnable: false, cpu: Duration::ZERO, elapsed: Duration::from_millis(50) };
        let works = Sample { cpu: Duration::from_millis(10), ..idle };
        let mut watch = Watch::default();
        let verdicts: Vec<Verdict> = [idle, works, idle, idle, idle, idle, idle].map(|s| watch.sample(s)).to_vec();
        assert_eq!(verdicts[0], Verdict::Unknown);
        assert!(verdicts[1..6].iter().all(|v| *v == Verdict::Busy), "{verdicts:?}");
        assert_eq!(verdicts[6], Verdict::Quiet);
        assert_eq!(watch.sample(Sample { stopped: true, ..idle }), Verdict::Stopped);
        assert_eq!(watch.sample(works), Verdict::Busy);
    }

    #[test]
    fn one_late_sample_does_not_convict() {
        let late = Sample { stopped: false, runnable: false, cpu: Duration::ZERO, elapsed: Duration::from_secs(5) };
        assert_eq!(Watch::default().sample(late), Verdict::Unknown);
    }
}
