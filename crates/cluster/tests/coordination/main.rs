//! Every engine under the conformance suite, and what is written above any engine on each of them.

#![allow(clippy::unwrap_used)]

mod embedded;
mod etcd;
mod records;
mod roles;

/// Calls `$with!` with all scenes that need nothing but an engine.
macro_rules! with_scenes {
    ($with:ident) => {
        $with! {
            roles::one_holds_the_role_and_the_next_has_a_higher_token,
            roles::renewals_keep_the_role_longer_than_its_lease,
            roles::a_restarted_agent_takes_over_from_its_dead_self_at_once,
            roles::a_claim_whose_answer_was_lost_is_found_by_reading_again,
            roles::unanswered_renewals_lose_the_role_before_the_lease_ends,
            roles::a_key_taken_away_is_noticed,
            roles::a_holder_whose_clock_jumped_past_its_deadline_stops_before_anything_else,
            records::generations_rise_strictly_whoever_asks,
            records::ports_belong_to_one_instance_and_stay,
            records::a_record_of_a_newer_version_is_refused,
        }
    };
}
pub(crate) use with_scenes;

/// Many in the prove lane, a few by default.
fn seeds() -> u64 {
    if std::env::var_os("HOLDFAST_PROVE").is_some() { 300 } else { 10 }
}
