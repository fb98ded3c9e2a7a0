//! The safety rules by name, each to be switched off alone.

use holdfast_services::supervisor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub supervisor: supervisor::Rules,
    /// [`holdfast_policy::balance::budget`].
    pub retry_budget: bool,
}

impl Rules {
    pub const ALL: Rules = Rules { supervisor: supervisor::Rules::ALL, retry_budget: true };

    /// Every rule, and all the others without it.
    pub const WITHOUT: [(&'static str, Rules); 6] = {
        let all = supervisor::Rules::ALL;
        [
            ("incarnation check", Rules::but(supervisor::Rules { incarnation_check: false, ..all })),
            ("absence proof", Rules::but(supervisor::Rules { absence_proof: false, ..all })),
            ("liveness brake", Rules::but(supervisor::Rules { liveness_brake: false, ..all })),
            ("last-instance rule", Rules::but(supervisor::Rules { last_instance_rule: false, ..all })),
            ("retry budget", Rules { retry_budget: false, ..Rules::ALL }),
            ("grant", Rules::but(supervisor::Rules { restart_grant: false, ..all })),
        ]
    };

    /// Those of redundant services.
    pub const WITHOUT_OF_STANDBY: [(&'static str, Rules); 4] = {
        let all = supervisor::Rules::ALL;
        [
            ("lease check", Rules::but(supervisor::Rules { lease_check: false, ..all })),
            ("deadline before promote", Rules::but(supervisor::Rules { deadline_before_promote: false, ..all })),
            ("acknowledged renewal", Rules::but(supervisor::Rules { acknowledged_renewal: false, ..all })),
            ("deadline", Rules::but(supervisor::Rules { restart_grant: false, ..all })),
        ]
    };

    const fn but(supervisor: supervisor::Rules) -> Rules {
        Rules { supervisor, ..Rules::ALL }
    }
}
