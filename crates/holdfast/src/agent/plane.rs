//! `holdfast balancer`: where a data plane process finds what it needs.

use holdfast_balancer::plane::{Options, run};

use crate::failure::{Exit, Failure};
use crate::layout::Layout;

pub(crate) fn main(layout: &Layout) -> Result<Exit, Failure> {
    holdfast_observe::logging::start("info");
    let instance = std::env::var("HOLDFAST_INSTANCE").map_err(|_| {
        Failure::new("HF0316", "a balancer process is started by the agent, not by hand")
            .hint("holdfast up -d")
            .exit(Exit::Usage)
    })?;
    let options = Options {
        node: holdfast_config::Environment::here().hostname,
        source: format!("balancer/{instance}"),
        ..Options::new(layout.run_dir(&instance), layout.shared_table())
    };
    run(options).map_err(|e| {
        let failure = Failure::new(e.code(), "the balancer process ended").because_of(&e);
        tracing::error!(code = failure.code, "{failure}");
        failure
    })?;
    Ok(Exit::Ok)
}
