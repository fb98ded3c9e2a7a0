//! A plane from a snapshot file, for benchmarks: `plane DIR SNAPSHOT.json [THREADS [TABLE]]`. It opens its own sockets
//! unless it was given some (LISTEN_FDS).

use std::error::Error;
use std::path::PathBuf;

use holdfast_balancer::plane::{self, Options};
use holdfast_balancer::snapshot::Snapshot;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, file, rest @ ..] = args.as_slice() else {
        return Err("plane DIR SNAPSHOT.json [THREADS [TABLE]]".into());
    };
    let threads = rest.first().map_or(Ok(1), |n| n.parse())?;
    let snapshot = Snapshot::parse(&std::fs::read(file)?)?;
    let dir = PathBuf::from(dir);
    std::fs::create_dir_all(&dir)?;
    snapshot.keep(&dir)?;
    let table = rest.get(1).map_or_else(|| dir.join("shared"), PathBuf::from);
    let mut options = Options::new(dir, table);
    options.threads = Some(threads);
    let inherits = std::env::var_os("LISTEN_FDS").is_some();
    for addr in snapshot.balancers.iter().flat_map(|b| &b.listen).filter(|_| !inherits) {
        options.listeners.extend(holdfast_host::listen::bind(*addr, threads)?);
    }
    plane::run(options)?;
    Ok(())
}
