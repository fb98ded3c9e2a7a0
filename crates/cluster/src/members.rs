//! What the machines of a cluster tell each other: a few records a machine, below one prefix of the store.
//!
//! | key | who writes it | what |
//! |---|---|---|
//! | `/node/NAME` | the machine | [`Registration`]: where it is and what it offers |
//! | `/admin/NAME` | people | [`Admin`]: cordoned, draining, to be removed |
//! | `/alive/NAME` | the machine, under its lease | it can reach the store |
//! | `/state/NAME` | the machine | [`NodeState`]: what runs there, written when it changes |
//! | `/links/NAME` | the machine | [`Links`]: which others it cannot reach, written when it changes |
//! | `/assigned/NAME` | the leader, guarded by its key | [`Assignment`]: what the machine should run |
//! | `/restart/TARGET` | people | every machine restarts its instances of it, each in its turn |
//! | `/leader` | the leader, under its lease | who decides |

pub mod lead;
mod record;
mod view;

pub use record::{Admin, Assigned, Assignment, Idle, InstanceState, Links, NodeState, Registration, Under, put};
pub use view::View;

pub const LEADER: &str = "/leader";
pub const ALIVE: &str = "/alive/";
pub const NODE: &str = "/node/";
pub const ADMIN: &str = "/admin/";
pub const STATE: &str = "/state/";
pub const LINKS: &str = "/links/";
/// `/restart/TARGET`: a number that is new for each request.
pub const RESTART: &str = "/restart/";
pub const ASSIGNED: &str = "/assigned/";
