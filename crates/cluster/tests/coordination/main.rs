//! Every engine under the conformance suite, and what is written above any engine on each of them.

#![allow(clippy::unwrap_used)]

mod embedded;
mod etcd;
mod records;
mod roles;

/// Scenes that need nothing but an engine; `$site` opens one for each.
macro_rules! scenes {
    ($site:path) => {
        crate::scenes!($site, roles:
            one_holds_the_role_and_the_next_has_a_higher_token,
            renewals_keep_the_role_longer_than_its_lease,
            a_restarted_agent_takes_over_from_its_dead_self_at_once,
            a_claim_whose_answer_was_lost_is_found_by_reading_again,
            unanswered_renewals_lose_the_role_before_the_lease_ends,
            a_key_taken_away_is_noticed,
            a_holder_whose_clock_jumped_past_its_deadline_stops_before_anything_else);
        crate::scenes!($site, records:
            generations_rise_strictly_whoever_asks,
            ports_belong_to_one_instance_and_stay,
            a_record_of_a_newer_version_is_refused);
    };
    ($site:path, $module:ident: $($name:ident),+) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (site, _held) = $site(stringify!($name)).await;
                crate::$module::$name(site).await;
            }
        )+
    };
}
pub(crate) use scenes;

/// Many in the prove lane, a few by default.
fn seeds() -> u64 {
    if std::env::var_os("HOLDFAST_PROVE").is_some() { 300 } else { 10 }
}
