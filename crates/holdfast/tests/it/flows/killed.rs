//! A wide step while the plane dies again and again.

use super::*;

const ITEMS: usize = 100;
const KILLS: usize = 3;

#[test]
fn every_item_runs_once_whatever_the_plane_dies_of() {
    let items: Vec<String> = (0..ITEMS).map(|n| format!("\"{n}\"")).collect();
    let site = site(&format!(
        "[pool.p]\nslots = 4\n[workflow.w]\n[workflow.w.step.s]\nfor_each = [{}]\nwidth = 8\npool = \"p\"\n\
         command = [\"sh\", \"-c\", \"echo $HOLDFAST_KEY/$HOLDFAST_ATTEMPT >> {{dir}}/seen; sleep 0.1\"]\n",
        items.join(", ")
    ));
    let run = begin(&site, &["w"]);
    for n in 1..=KILLS {
        site.wait_for("more of it", || lines(&site, "seen").len() >= n * ITEMS / (KILLS + 2));
        kill_plane(&site);
    }
    wait_for_status(&site, &run, "succeeded");
    let mut seen = lines(&site, "seen");
    seen.sort();
    let mut wanted: Vec<String> = (0..ITEMS).map(|n| format!("{run}/1/s/{n}/do/1")).collect();
    wanted.sort();
    assert_eq!(seen, wanted);
    site.wait_for("nothing to be left of its programs", || {
        std::fs::read_dir(site.data().join("work")).is_ok_and(|mut left| left.next().is_none())
    });
}
