//! False alarms: a healthy site on a starved machine that loses packets must be left alone. An executable of its own,
//! because what it does to the machine would disturb every other test.

// The other executable uses the rest of these.
#[path = "../it/proof.rs"]
#[allow(dead_code)]
mod proof;
#[path = "../it/rate.rs"]
#[allow(dead_code)]
mod rate;
#[path = "../it/site.rs"]
#[allow(dead_code)]
mod site;

mod conditions;
mod quiet;
mod watcher;
