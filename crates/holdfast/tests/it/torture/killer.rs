//! Seeded choice of who is killed next and how.

use std::io::{Read, Write};
use std::time::Duration;

use holdfast_policy::rng::Rng;

use super::field::{Field, Process};
use super::ledger::boot_ms;
use crate::site::{Site, alive, kill};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Agent,
    Shim,
    Plane,
    Instance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Kill,
    /// Instances end in order and with code 0, unless it comes before they listen for it.
    Term,
    /// The program ends by itself with this code.
    Exit(i32),
}

/// One process that was ended.
#[derive(Clone)]
pub(super) struct Kill {
    pub(super) at_ms: u64,
    pub(super) role: Role,
    /// `web-1`, `_balancer-2`, `_agent-1`.
    pub(super) id: String,
    pub(super) pid: u32,
    pub(super) life: String,
    pub(super) how: How,
}

impl std::fmt::Debug for Kill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Kill { at_ms, role, id, pid, life, how } = self;
        write!(f, "{at_ms} {role:?} {id} {life} pid {pid} {how:?}")
    }
}

pub(super) struct Killer {
    pub(super) rng: Rng,
    pub(super) log: Vec<Kill>,
}

/// What is aimed at, of a hundred.
const AIMS: [(u64, Aim); 7] = [
    (45, Aim::Instance),
    (18, Aim::Shim),
    (8, Aim::InstanceAndShim),
    (12, Aim::Plane),
    (5, Aim::PlaneShim),
    (8, Aim::Agent),
    (4, Aim::AgentShim),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Instance,
    Shim,
    InstanceAndShim,
    Plane,
    PlaneShim,
    Agent,
    AgentShim,
}

const EXIT_CODES: [i32; 4] = [1, 7, 41, 255];
/// A program that took the request ends within it, or is killed.
const EXIT_TIME: Duration = Duration::from_secs(2);

impl Killer {
    pub(super) fn new(seed: u64) -> Killer {
        Killer { rng: Rng::from_seed(seed), log: Vec::new() }
    }

    /// Ends somebody; the number of processes that were.
    pub(super) fn strike(&mut self, site: &Site) -> usize {
        let before = self.log.len();
        let mut at = self.rng.below(AIMS.iter().map(|(weight, _)| weight).sum());
        let aim = AIMS.iter().find(|(weight, _)| {
            let hit = at < *weight;
            at = at.saturating_sub(*weight);
            hit
        });
        let field = Field::look(site);
        match aim.map_or(Aim::Instance, |(_, aim)| *aim) {
            Aim::Instance => {
                if let Some((id, process)) = self.one_of(field.instances.iter()) {
                    let how = self.how();
                    self.end(Role::Instance, id, process, how);
                }
            }
            Aim::Shim => {
                if let Some((id, shim)) = self.one_of(field.shims.iter().filter(|(id, _)| !id.starts_with('_'))) {
                    self.end(Role::Shim, id, shim, How::Kill);
                }
            }
            Aim::InstanceAndShim => self.both(&field),
            Aim::Plane => {
                if let Some((id, plane)) = self.one_of(field.planes.iter()) {
                    self.end(Role::Plane, id, plane, How::Kill);
                }
            }
            Aim::PlaneShim => {
                if let Some((id, shim)) = self.one_of(field.shims.iter().filter(|(id, _)| id.starts_with("_balancer")))
                {
                    self.end(Role::Shim, id, shim, How::Kill);
                }
            }
            // While one of the two is away, the other is all there is to bring it back.
            Aim::Agent => {
                if let Some((agent, _)) = field.guarded_agent() {
                    self.end(Role::Agent, "_agent-1", agent, How::Kill);
                }
            }
            Aim::AgentShim => {
                if let Some((_, shim)) = field.guarded_agent() {
                    self.end(Role::Shim, "_agent-1", shim, How::Kill);
                }
            }
        }
        self.log.len() - before
    }

    pub(super) fn end_instance(&mut self, field: &Field, id: &str) {
        if let Some(process) = field.instances.get(id) {
            self.end(Role::Instance, id, process, How::Kill);
        }
    }

    fn one_of<'a>(&mut self, list: impl Iterator<Item = (&'a String, &'a Process)>) -> Option<(&'a str, &'a Process)> {
        let list: Vec<_> = list.collect();
        let at = self.rng.below(list.len() as u64) as usize;
        list.get(at).map(|(id, process)| (id.as_str(), *process))
    }

    /// At the same moment, in either order.
    fn both(&mut self, field: &Field) {
        let Some((id, process)) = self.one_of(field.instances.iter()) else { return };
        let shim_first = self.rng.below(2) == 0;
        if let Some(shim) = field.shims.get(id).filter(|_| shim_first) {
            self.end(Role::Shim, id, shim, How::Kill);
        }
        self.end(Role::Instance, id, process, How::Kill);
        if let Some(shim) = field.shims.get(id).filter(|_| !shim_first) {
            self.end(Role::Shim, id, shim, How::Kill);
        }
    }

    fn how(&mut self) -> How {
        match self.rng.below(10) {
            0..6 => How::Kill,
            6..8 => How::Term,
            _ => How::Exit(EXIT_CODES[self.rng.below(EXIT_CODES.len() as u64) as usize]),
        }
    }

    fn end(&mut self, role: Role, id: &str, process: &Process, how: How) {
        if !alive(process.pid) {
            return;
        }
        let mut note = |how| {
            let Process { pid, life, .. } = process.clone();
            self.log.push(Kill { at_ms: boot_ms(), role, id: id.to_owned(), pid, life, how });
        };
        match how {
            How::Kill => {
                note(how);
                kill(process.pid, "KILL");
            }
            How::Term => {
                note(how);
                kill(process.pid, "TERM");
            }
            How::Exit(code) => {
                note(how);
                if !ask_to_exit(process, code) {
                    note(How::Kill);
                    kill(process.pid, "KILL");
                }
            }
        }
    }
}

/// False when it does not take requests (yet).
fn ask_to_exit(process: &Process, code: i32) -> bool {
    let ask = || -> std::io::Result<()> {
        let port = process.port.unwrap_or(0);
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(EXIT_TIME))?;
        write!(stream, "GET /exit?code={code} HTTP/1.1\r\nHost: it\r\n\r\n")?;
        match stream.read(&mut [0; 1]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(std::io::ErrorKind::InvalidData.into()),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            Err(e) => Err(e),
        }
    };
    ask().is_ok()
}
