//! Consecutive-result thresholds for probes.

/// Changes after `rise` passes or `fall` misses in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub rise: u32,
    pub fall: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { rise: 1, fall: 3 }
    }
}
