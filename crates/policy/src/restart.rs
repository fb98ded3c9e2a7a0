//! When a child that ended is started again. Runs in the shim, so that it works without the agent.
//!
//! The rule (defaults): the first restart comes at once, the next after 1 s, then doubling to 60 s with 20 %
//! jitter. The count is forgotten after the child was ready for max(60 s, 10 x the current delay). A service is
//! never given up silently: by default there is no attempt limit, and a crash loop is a visible state.

use std::time::Duration;

use crate::backoff::Backoff;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum When {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// `[service.NAME] restart`.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub when: When,
    pub backoff: Backoff,
    /// Ready for this long, and for ten times the current delay, forgets earlier failures.
    pub reset: Duration,
    /// Restarts allowed within `window`; `None` is without limit.
    pub attempts: Option<u32>,
    pub window: Duration,
    /// Exit codes that count as success (0 is always one).
    pub success_codes: Vec<i32>,
    /// Exit codes after which it is started again whatever `when` says.
    pub restart_codes: Vec<i32>,
    /// Exit codes after which it is never started again, whatever `when` says.
    pub stop_codes: Vec<i32>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            when: When::Always,
            backoff: Backoff {
                base: Duration::from_secs(1),
                factor: 2.0,
                max: Duration::from_secs(60),
                jitter: 0.2,
            },
            reset: Duration::from_secs(60),
            attempts: None,
            window: Duration::from_secs(600),
            success_codes: Vec::new(),
            restart_codes: Vec::new(),
            stop_codes: Vec::new(),
        }
    }
}
