//! The configuration in force, every default spelled out, as TOML that reads back; secrets hidden.

use crate::effective::{Setting, balancer, cluster, drill, machine, node, service};
use crate::model::Config;

pub fn show(config: &Config) -> String {
    let mut out = String::new();
    table(&mut out, "node", node(&config.node));
    if let Some(c) = &config.cluster {
        table(&mut out, "cluster", cluster(c));
    }
    for (name, m) in &config.nodes {
        table(&mut out, &format!("node.{name}"), machine(m));
    }
    for (name, s) in &config.services {
        table(&mut out, &format!("service.{name}"), service(s));
    }
    for (name, b) in &config.balancers {
        table(&mut out, &format!("balancer.{name}"), balancer(b));
    }
    for (name, d) in &config.drills {
        table(&mut out, &format!("drill.{name}"), drill(d));
    }
    out
}

fn table(out: &mut String, header: &str, settings: Vec<Setting>) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(&format!("[{header}]\n"));
    for setting in settings {
        out.push_str(&format!("{} = {}\n", setting.key, setting.shown()));
    }
}
