//! What is known about versions of etcd.

use std::fmt;

/// The conformance suite has run on these.
pub const TESTED_VERSIONS: &[&str] = &["3.4.23", "3.5.16", "3.5.30"];

/// First releases in which a slow leader no longer revokes the leases of all (etcd issues 15247 and 12528).
const LEASES_SAFE: [(u32, u32, u32); 2] = [(3, 4, 31), (3, 5, 13)];

/// 3.6 and later have no lease bug, and this one repairs watches that missed events.
const WATCHES_SAFE: (u32, u32, u32) = (3, 6, 2);

/// Members of an older 3.5 can come back from the dead when they are upgraded to 3.6.
const UPGRADE_SAFE: (u32, u32, u32) = (3, 5, 26);

/// Older series get no repairs any more.
const MAINTAINED: (u32, u32) = (3, 5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionWarning {
    /// It does not say a version.
    Unreadable,
    /// A leader with a slow disk can end every lease at once: every holder loses its role although it is well.
    LeaseRevocation,
    /// No repairs come any more.
    EndOfLife,
    /// Watches can miss events.
    WatchLoss,
    /// Go to 3.5.26 or later before 3.6.
    UpgradeInTwoSteps,
    /// No version of this series is in [`TESTED_VERSIONS`].
    Untested,
}

impl fmt::Display for VersionWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VersionWarning::Unreadable => "it does not say which version it is",
            VersionWarning::LeaseRevocation => {
                "a leader with a slow disk can end all leases at once; upgrade to 3.4.31, 3.5.13 or later"
            }
            VersionWarning::EndOfLife => "this series gets no repairs any more; upgrade to 3.5 or later",
            VersionWarning::WatchLoss => "watches can miss events; upgrade to 3.6.2 or later",
            VersionWarning::UpgradeInTwoSteps => "upgrade to 3.5.26 or later before you go to 3.6",
            VersionWarning::Untested => "holdfast was not tested with this series",
        })
    }
}

/// What to say of a member that calls itself `version` (`3.5.16`); nothing when all is well.
pub fn version_warnings(version: &str) -> Vec<VersionWarning> {
    let Some(found @ (major, minor, _)) = parse(version) else { return vec![VersionWarning::Unreadable] };
    let repaired = LEASES_SAFE.iter().find(|safe| (safe.0, safe.1) == (major, minor));
    let oldest_series = (LEASES_SAFE[0].0, LEASES_SAFE[0].1);
    let leases_end = repaired.map_or((major, minor) < oldest_series, |safe| found < *safe);
    let watches_miss = (major, minor) == (WATCHES_SAFE.0, WATCHES_SAFE.1) && found < WATCHES_SAFE;
    let two_steps = (major, minor) == (UPGRADE_SAFE.0, UPGRADE_SAFE.1) && found < UPGRADE_SAFE;
    let tested = TESTED_VERSIONS.iter().filter_map(|v| parse(v)).any(|v| (v.0, v.1) == (major, minor));
    [
        (leases_end, VersionWarning::LeaseRevocation),
        ((major, minor) < MAINTAINED, VersionWarning::EndOfLife),
        (watches_miss, VersionWarning::WatchLoss),
        (two_steps, VersionWarning::UpgradeInTwoSteps),
        (!tested, VersionWarning::Untested),
    ]
    .into_iter()
    .filter_map(|(applies, warning)| applies.then_some(warning))
    .collect()
}

/// `3.6.0-rc.1` counts as what it comes before.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let numbers = version.trim().trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let parsed = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::VersionWarning::*;
    use super::*;

    #[test]
    fn each_version_gets_its_warnings() {
        let table: &[(&str, &[VersionWarning])] = &[
            ("3.3.25", &[LeaseRevocation, EndOfLife, Untested]),
            ("3.4.23", &[LeaseRevocation, EndOfLife]),
            ("3.4.30", &[LeaseRevocation, EndOfLife]),
            ("3.4.31", &[EndOfLife]),
            ("3.5.12", &[LeaseRevocation, UpgradeInTwoSteps]),
            ("3.5.13", &[UpgradeInTwoSteps]),
            ("v3.5.16", &[UpgradeInTwoSteps]),
            ("3.5.30", &[]),
            ("3.6.1", &[WatchLoss, Untested]),
            ("3.6.2-rc.1", &[Untested]),
            ("3.7.3", &[Untested]),
            ("4.0.0", &[Untested]),
            ("", &[Unreadable]),
            ("3.5", &[Unreadable]),
            ("3.5.1.2", &[Unreadable]),
            ("banana", &[Unreadable]),
        ];
        for (version, want) in table {
            assert_eq!(version_warnings(version), *want, "{version}");
        }
    }
}
