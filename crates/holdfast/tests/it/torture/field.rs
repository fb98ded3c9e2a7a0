//! Who is there, read from `/proc` alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::site::Site;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    started: u64,
    /// `GENERATION.RUN`; of a shim the generation alone.
    pub(super) life: String,
    pub(super) port: Option<u16>,
}

/// Processes of one site by what they are, then by instance.
#[derive(Debug, Default)]
pub(super) struct Field {
    pub(super) agent: Option<Process>,
    pub(super) shims: BTreeMap<String, Process>,
    pub(super) planes: BTreeMap<String, Process>,
    pub(super) instances: BTreeMap<String, Process>,
    /// Anything else that was started for this site, and second copies.
    pub(super) others: Vec<String>,
}

impl Field {
    pub(super) fn look(site: &Site) -> Field {
        let data = site.data();
        let mut field = Field::default();
        let mut found: Vec<(Process, Vec<String>, Vec<String>)> = site
            .living()
            .into_iter()
            .filter_map(|(pid, _)| {
                let (parent, started) = parent_and_start(pid)?;
                let environ = words(pid, "environ");
                let life = variable(&environ, "HOLDFAST_INCARNATION").unwrap_or_default();
                let port = variable(&environ, "PORT").and_then(|p| p.parse().ok());
                Some((Process { pid, parent, started, life, port }, words(pid, "cmdline"), environ))
            })
            .collect();
        // Between fork and exec a process looks like the one that it was forked from: the older one is the one.
        found.sort_by_key(|(process, ..)| (process.started, process.pid));
        for (process, args, environ) in found {
            field.place(process, &args, &environ, &data);
        }
        field
    }

    fn place(&mut self, mut process: Process, args: &[String], environ: &[String], data: &std::path::Path) {
        let id = variable(environ, "HOLDFAST_INSTANCE").unwrap_or_default();
        let text = format!("{} {}", process.pid, args.join(" "));
        let last = args.last().map(String::as_str).unwrap_or_default();
        let of_binary = args.first().is_some_and(|exe| exe == env!("CARGO_BIN_EXE_holdfast"));
        let place = match args {
            [_, word, dir, generation] if of_binary && word == "__shim" => {
                let dir = PathBuf::from(dir);
                let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                process.life = generation.clone();
                self.shims.entry(name)
            }
            _ if of_binary && last == "balancer" && args.iter().any(|a| a.as_str() == data.to_string_lossy()) => {
                self.planes.entry(id)
            }
            _ if of_binary && last == "agent" => {
                match &self.agent {
                    None => self.agent = Some(process),
                    Some(_) => self.others.push(text),
                }
                return;
            }
            [exe, _port] if exe.ends_with("examples/origin") => self.instances.entry(id),
            _ => return self.others.push(text),
        };
        match place {
            std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(process)),
            std::collections::btree_map::Entry::Occupied(_) => self.others.push(text),
        }
    }

    pub(super) fn agent_shim(&self) -> Option<&Process> {
        self.shims.get("_agent-1")
    }

    /// The agent, when it runs under its own shim: each of the two can then bring back the other.
    pub(super) fn guarded_agent(&self) -> Option<(&Process, &Process)> {
        let (agent, shim) = (self.agent.as_ref()?, self.agent_shim()?);
        (agent.parent == shim.pid).then_some((agent, shim))
    }
}

fn words(pid: u32, file: &str) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let words = bytes.split(|b| *b == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn variable(environ: &[String], name: &str) -> Option<String> {
    environ.iter().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn parent_and_start(pid: u32) -> Option<(u32, u64)> {
    let fields = stat(pid)?;
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// From the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

/// Ended children that a process of this site has not waited for.
pub(super) fn zombies(site: &Site) -> Vec<u32> {
    let ours: Vec<u32> = site.living().into_iter().map(|(pid, _)| pid).collect();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        stat(*pid).is_some_and(|fields| {
            fields[0] == "Z" && fields[1].parse::<u32>().is_ok_and(|parent| ours.contains(&parent))
        })
    })
    .collect()
}

/// Directory in the unified tree that all cgroups of the site lie in; `None` where there is no such tree to write to.
pub(super) fn cgroups(field: &Field) -> Option<PathBuf> {
    let pid = field.instances.values().next()?.pid;
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let leaf = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let trees = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|tree| PathBuf::from(tree).join(leaf));
    let parent = trees.iter().find(|path| path.exists())?.parent()?.to_owned();
    parent.file_name()?.to_str()?.starts_with("holdfast-").then_some(parent)
}
