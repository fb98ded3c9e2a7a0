//! Requests that wait for a machine whose agent has fallen silent: when its power goes, no connection ends, and until it
//! is known to be lost they would wait for nothing. Silence proves nothing either, so they stay, and are asked elsewhere
//! too.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_policy::balance::Verdict;

use super::Member;
use super::linking::{Heard, Link};
use crate::agent::core::Core;

/// Looks in a row: one may be a lost packet.
const SILENT_LOOKS: u32 = 2;

pub(super) async fn run(member: Arc<Member>, core: Arc<Core>) {
    let mut heard = member.watch_heard();
    let mut silent = BTreeMap::new();
    while heard.changed().await.is_ok() {
        silent = count(&silent, &heard.borrow_and_update());
        // Verdicts count for as long as somebody renews them.
        core.planes.beat();
        for place in core.planes.places() {
            let Some(node) = &place.node else { continue };
            core.planes.table.set_verdict(place.endpoint.slot, verdict(silent.get(&*node.0)));
        }
    }
}

/// Looks in a row that each machine did not answer. One that refuses is there: only its agent is not.
fn count(before: &BTreeMap<String, u32>, heard: &BTreeMap<String, Heard>) -> BTreeMap<String, u32> {
    let silent = heard.iter().filter(|(_, heard)| heard.link == Link::Silent);
    silent.map(|(node, _)| (node.clone(), before.get(node).map_or(1, |looks| looks.saturating_add(1)))).collect()
}

fn verdict(looks: Option<&u32>) -> Verdict {
    if looks.is_some_and(|looks| *looks >= SILENT_LOOKS) { Verdict::NoProgress } else { Verdict::Ok }
}

#[cfg(test)]
mod tests {
    use holdfast_policy::Timestamp;

    use super::*;

    #[test]
    fn two_silent_looks_in_a_row_are_a_doubt_and_one_answer_ends_it() {
        use Link::{Answers, Refused, Silent};
        let mut silent = BTreeMap::new();
        let mut look = |link| {
            silent =
                count(&silent, &[("n2".to_owned(), Heard { link, at: Timestamp::from_nanos(0), reason: None })].into());
            verdict(silent.get("n2")) == Verdict::NoProgress
        };
        let looks = [Silent, Answers, Silent, Silent, Silent, Answers, Silent, Refused, Silent];
        assert_eq!(looks.map(&mut look), [false, false, false, true, true, false, false, false, false]);
    }
}
