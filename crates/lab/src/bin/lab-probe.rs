//! `lab-probe`: GETs at a fixed rate, and what became of them as JSON.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use holdfast_lab::load::{self, Plan};

/// Send GETs at a fixed rate and print what became of them as JSON
#[derive(Parser)]
#[command(name = "lab-probe")]
struct Arguments {
    /// Requests a second
    rate: u64,
    /// http://ADDRESS:PORT/PATH
    url: String,
    seconds: f64,
    /// A request that takes longer has failed
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = Plan {
        url: arguments.url,
        rate_per_s: arguments.rate,
        length: Duration::from_secs_f64(arguments.seconds),
        timeout: Duration::from_millis(arguments.timeout),
    };
    match load::drive(&plan, &AtomicBool::new(false)) {
        Ok(summary) => {
            println!("{}", summary.json());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
