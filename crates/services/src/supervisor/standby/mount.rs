//! The volume of a redundant service: mounted by the member that holds the lease, unmounted before it gives the lease back.

use holdfast_policy::Timestamp;

use super::super::Supervisor;
use super::super::action::Edge;
use super::super::definition::Definition;
use super::super::instance::{Instance, Shim};

impl Supervisor {
    /// Whether the volume is mounted under the present token, or there is none.
    pub(crate) fn is_mounted(&mut self, now: Timestamp, i: &mut Instance, definition: &Definition) -> bool {
        let Some(argv) = arguments(definition) else { return true };
        if i.member.mounted != i.member.machine.token() {
            i.member.unmounted = false;
            i.member.volume_of = self.services.get(&i.id.service).cloned();
            if self.run_edge(now, i, definition, Edge::Mount, Some(argv)) != Some(true) {
                return false;
            }
            i.member.mounted = i.member.machine.token();
            self.tell_acted(now, i, "its volume is mounted");
        }
        true
    }

    /// Whether nothing of the volume is mounted on this machine because of this member; unmounts it else. Only for a program that
    /// is proved dead.
    pub(crate) fn is_unmounted(&mut self, now: Timestamp, i: &mut Instance) -> bool {
        let known = i.running.clone().or_else(|| self.services.get(&i.id.service).cloned());
        let known = known.or_else(|| i.member.volume_of.clone());
        let Some((definition, argv)) = known.and_then(|d| arguments(&d).map(|argv| (d, argv))) else { return true };
        if i.member.unmounted || self.is_used_here(i) {
            return true;
        }
        // What is being mounted would be there after it was not found.
        if i.member.job.as_ref().is_some_and(|job| job.edge == Edge::Mount && job.ended.is_none()) {
            return false;
        }
        i.member.mounted = None;
        i.member.unmounted = self.run_edge(now, i, &definition, Edge::Unmount, Some(argv)) == Some(true);
        i.member.unmounted
    }

    /// Another member on this machine may have the volume.
    fn is_used_here(&self, i: &Instance) -> bool {
        let has = |other: &Instance| other.member.acts() || !matches!(other.shim, Shim::Absent);
        self.of_service(&i.id.service).any(|other| other.id != i.id && has(other))
    }
}

/// Source, target, type and options; empty texts for what is not said.
fn arguments(definition: &Definition) -> Option<Vec<String>> {
    let mount = definition.standby()?.mount.as_ref()?;
    let kind = mount.kind.clone().unwrap_or_default();
    Some(vec![mount.source.clone(), mount.target.display().to_string(), kind, mount.options.join(",")])
}
