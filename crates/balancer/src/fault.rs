//! Faults on command, for drills: they vanish by themselves.

use holdfast_policy::Timestamp;
use serde::{Deserialize, Serialize};

/// A drill that died must not leave its fault behind for longer.
pub const LASTS_MS_MAX: u64 = 600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The answer is looked at only so long after the request was sent.
    LatencyMs(u64),
    /// Answered with this status instead of being sent.
    Error(u16),
    /// As if the endpoint reset the connection before it answered.
    Reset,
    /// As if the endpoint never answered: it is connected to, and the request is kept back.
    NoAnswer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Names it for clearing and replacing.
    #[serde(default)]
    pub id: String,
    pub balancer: String,
    /// Only tries at this instance; all without.
    #[serde(default)]
    pub instance: Option<String>,
    pub kind: Kind,
    /// Share of the tries that are hit, 0..=1.
    pub share: f64,
    /// Boot time at which it vanishes, at most [`LASTS_MS_MAX`] ahead.
    pub until_boot_ns: u64,
}

impl Fault {
    pub(crate) fn hits(&self, balancer: &str, instance: &str, now: Timestamp) -> bool {
        now.as_nanos() < self.until_boot_ns
            && self.balancer == balancer
            && self.instance.as_deref().is_none_or(|i| i == instance)
    }

    /// Held to its limits, whatever was asked for.
    pub(crate) fn bounded(mut self, now: Timestamp) -> Fault {
        let latest = now + std::time::Duration::from_millis(LASTS_MS_MAX);
        self.until_boot_ns = self.until_boot_ns.min(latest.as_nanos());
        self.share = if self.share.is_finite() { self.share.clamp(0.0, 1.0) } else { 0.0 };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_vanishes_by_itself_and_never_lasts_longer_than_allowed() {
        let now = Timestamp::from_millis(1_000);
        let fault = Fault {
            id: "f".into(),
            balancer: "b".into(),
            instance: None,
            kind: Kind::Reset,
            share: 7.0,
            until_boot_ns: u64::MAX,
        };
        let fault = fault.bounded(now);
        assert_eq!(fault.share, 1.0);
        assert!(fault.hits("b", "web-1", now) && !fault.hits("c", "web-1", now));
        assert!(!fault.hits("b", "web-1", Timestamp::from_millis(1_000 + LASTS_MS_MAX)));
    }
}
