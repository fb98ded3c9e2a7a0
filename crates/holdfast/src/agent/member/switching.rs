//! A planned change of the active member, asked for on any machine.

use std::time::Instant;

use holdfast_cluster::members::{InstanceState, View};
use holdfast_observe::status::State;
use holdfast_policy::InstanceId;

use super::Member;
use crate::agent::core::{Core, SWITCHOVER_TIME, no_such, nothing_applied, services_failure};
use crate::api::Done;
use crate::failure::{Exit, Failure};
use crate::terminal::human;

impl Member {
    /// `to`: any other than the present one where nobody is named.
    pub(crate) async fn switch_over(
        &self,
        service: &str,
        to: Option<&str>,
        force: bool,
        core: &Core,
    ) -> Result<Done, Failure> {
        let in_force = core.in_force().ok_or_else(nothing_applied)?;
        let refused = |why: String| {
            Failure::new("HF0345", format!("no other member of {service} can become active: {why}"))
                .hint(format!("holdfast why {service}"))
                .exit(Exit::Refused)
        };
        let declared = in_force.config.services.get(service).ok_or_else(|| no_such(service))?;
        if declared.standby.is_none() {
            return Err(refused("it has no standbys".into()));
        }
        let seen = self.seen();
        let before = active(&seen.view, service);
        let members = members(&seen.view, service);
        let can = |m: &&InstanceState| m.able || force;
        match to {
            Some(name) if before.as_deref() == Some(name) => return Err(refused(format!("{name} is active already"))),
            Some(name) => {
                let member = members.iter().find(|m| m.shown.id == name).ok_or_else(|| no_such(name))?;
                if !can(member) {
                    let why = member.shown.unable.clone().or_else(|| member.shown.reason.clone());
                    return Err(refused(format!("{name}: {}", why.unwrap_or_else(|| "not ready".into()))));
                }
            }
            None if members.iter().any(|m| before.as_deref() != Some(&m.shown.id) && can(m)) => {}
            None => return Err(refused("none of them could take over now".into())),
        }
        let id = to.map(|name| name.parse::<InstanceId>().map_err(|_| no_such(name))).transpose()?;
        let began = Instant::now();
        core.services.want_active(service, id.as_ref(), force).await.map_err(|e| services_failure(&e))?;
        let mut seen = self.watch_seen();
        let over = seen.wait_for(|seen| {
            let now = active(&seen.view, service);
            now.is_some() && now != before && to.is_none_or(|to| now.as_deref() == Some(to))
        });
        match tokio::time::timeout(SWITCHOVER_TIME, over).await {
            Ok(Ok(seen)) => {
                let now = active(&seen.view, service).unwrap_or_default();
                let from = before.map_or_else(String::new, |before| format!(" instead of {before}"));
                Ok(Done { message: format!("{service}: {now} is active{from}, after {}", human(began.elapsed())) })
            }
            _ => Err(Failure::new(
                "HF0346",
                format!(
                    "{service}: no other member was active within {} s; it is still tried",
                    SWITCHOVER_TIME.as_secs()
                ),
            )
            .hint(format!("holdfast why {service}"))
            .exit(Exit::Refused)),
        }
    }
}

fn members<'a>(view: &'a View, service: &str) -> Vec<&'a InstanceState> {
    view.states.values().flat_map(|s| &s.instances).filter(|i| i.service == service).collect()
}

/// The member that serves.
fn active(view: &View, service: &str) -> Option<String> {
    let serves = |m: &&InstanceState| m.shown.role.as_deref() == Some("active") && m.shown.state == State::Ready;
    members(view, service).into_iter().find(serves).map(|m| m.shown.id.clone())
}
