//! Several machines that lose each other, their power and their store, with the real binary on each and real etcd. An
//! executable of its own, because a lab full of machines disturbs whatever runs beside it. Two labs at a time, one where figures
//! are taken.

// The other executables use the rest of it.
#[path = "../it/proof.rs"]
#[allow(dead_code)]
mod proof;

#[path = "../it/standby/roles.rs"]
mod roles;
mod told;
mod town;

mod address;
mod break_glass;
mod controller;
mod cut_off;
mod endpoints;
mod lead;
mod names;
mod page;
mod power;
mod quiet;
mod rolling;
mod scenarios;
mod standby;
mod store;
mod volume;
