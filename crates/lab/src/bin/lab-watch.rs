//! `lab-watch`: which processes of a kind ran when, on all machines, and for how long on two at once, as JSON.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use holdfast_lab::watch::{Select, Span, Watch, overlap};
use serde_json::{Value, json};

/// Record which processes of a kind run when, and for how long on two machines at once
#[derive(Parser)]
#[command(name = "lab-watch")]
struct Arguments {
    seconds: f64,
    /// Only processes with this in their environment
    #[arg(long, value_name = "NAME=VALUE")]
    env: Option<String>,
    /// Only processes with this in their command line
    #[arg(long, value_name = "TEXT")]
    command: Option<String>,
    /// Only processes of one lab: the name of its folder
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
}

fn main() -> ExitCode {
    let Arguments { seconds, env, command, lab } = Arguments::parse();
    match Watch::start(Select { env, command, cgroup: lab }) {
        Ok(watch) => {
            thread::sleep(Duration::from_secs_f64(seconds));
            print(&watch.finish());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(spans: &[Span]) {
    let shared = overlap(spans, |span| span.machine.clone());
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let list: Vec<Value> = spans.iter().map(Span::json).collect();
    let overlap = json!({ "certain_ms": ms(shared.certain), "possible_ms": ms(shared.possible) });
    println!("{}", json!({ "spans": list, "overlap": overlap }));
}
