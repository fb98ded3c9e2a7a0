//! What becomes of a firing while earlier runs of the same workflow are not over.

/// `[workflow.NAME] overlap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Overlap {
    #[default]
    Skip,
    /// One waits; more are skipped, so that a run that hangs does not pile up work behind it.
    Queue,
    /// The runs under way are cancelled, and the new one begins when they are over.
    Cancel,
    Allow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Start,
    Skip,
    /// It begins when the last active run is over.
    Queue,
    /// Cancel what runs, and what waits for it; then as [`Verdict::Queue`].
    CancelAndQueue,
}

/// Runs queued, running, paused, rolling back or stuck are `active`; of them `waiting` have not begun because of this rule.
/// Ask once for each firing, with the numbers that the verdict before led to.
pub fn overlap(rule: Overlap, active: u32, waiting: u32) -> Verdict {
    match rule {
        Overlap::Allow => Verdict::Start,
        _ if active == 0 => Verdict::Start,
        Overlap::Skip => Verdict::Skip,
        Overlap::Queue if waiting > 0 => Verdict::Skip,
        Overlap::Queue => Verdict::Queue,
        Overlap::Cancel => Verdict::CancelAndQueue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_with_none_one_and_one_waiting() {
        use Verdict::{CancelAndQueue, Queue, Skip, Start};
        for (rule, idle, busy, waiting) in [
            (Overlap::Skip, Start, Skip, Skip),
            (Overlap::Queue, Start, Queue, Skip),
            (Overlap::Cancel, Start, CancelAndQueue, CancelAndQueue),
            (Overlap::Allow, Start, Start, Start),
        ] {
            let got = (overlap(rule, 0, 0), overlap(rule, 1, 0), overlap(rule, 2, 1));
            assert_eq!(got, (idle, busy, waiting), "{rule:?}");
        }
    }
}
