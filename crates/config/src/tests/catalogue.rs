//! Every key has a default that reads, an example that is accepted, and a change that the hash agrees with.

mod tasks;

use std::collections::BTreeMap;
use std::path::Path;

use crate::keys::{self, Change, Default, SECTIONS, Section, Type};
use crate::quantity::*;
use crate::reference::{EXAMPLE, EXAMPLE_TASKS};
use crate::*;

use super::{environment, good};

const OTHERS: &str = r#"
[service.web]
command = ["web"]
[service.db]
command = ["db"]
[service.migrate]
type = "job"
command = ["migrate"]
[balancer.public]
listen = "127.0.0.1:8080"
service = "web"
"#;

/// A valid file with `key = example` in the section's table.
fn file_with(section: &'static Section, key: &str, example: &str) -> String {
    tasks::file_with(section, key, example).unwrap_or_else(|| file_of_services(section, key, example))
}

fn file_of_services(section: &'static Section, key: &str, example: &str) -> String {
    let is = |s: &'static Section| std::ptr::eq(s, section);
    let inner = |name: &str, base: &str| {
        let base: Vec<&str> = base.split(';').filter(|b| !b.is_empty() && !b.starts_with(&format!("{key} "))).collect();
        let all: Vec<String> = base.iter().map(|b| (*b).to_owned()).chain([format!("{key} = {example}")]).collect();
        (name.to_owned(), format!("{{ {} }}", all.join(", ")))
    };
    let ask = match key {
        "tcp" | "http" | "command" | "notify" => "",
        "status" => "http = \"/\"",
        "every" => "tcp = true;timeout = \"10ms\"",
        "timeout" => "tcp = true;every = \"10s\"",
        _ => "tcp = true",
    };
    let standby = match key {
        "max_staleness" | "sync_every" => "tier = \"warm\";sync = [\"s\"]",
        "warm" => "tier = \"warm\"",
        "restore" | "dry_start" | "mount" => "tier = \"cold\"",
        _ => "tier = \"hot\"",
    };
    let (table, name, value) = match () {
        () if is(&keys::NODE) => ("node", key.to_owned(), example.to_owned()),
        () if is(&keys::CLUSTER) => ("cluster", key.to_owned(), example.to_owned()),
        () if is(&keys::MACHINE) => ("node.app", key.to_owned(), example.to_owned()),
        () if is(&keys::SERVICE) => ("service.app", key.to_owned(), example.to_owned()),
        () if is(&keys::REFERENCE) => with("service.app", inner("env.KEY", "")),
        () if is(&keys::RESTART) => with("service.app", inner("restart", "")),
        () if is(&keys::STARTUP) => with("service.app", inner("startup", ask)),
        () if is(&keys::READY) => with("service.app", inner("ready", ask)),
        () if is(&keys::LIVE) => with("service.app", inner("live", ask)),
        () if is(&keys::STOP) => with("service.app", inner("stop", "")),
        () if is(&keys::NEEDS) => with("service.app", inner("needs", "")),
        () if is(&keys::STANDBY) => with("service.app", inner("standby", standby)),
        () if is(&keys::MOUNT) => {
            let (_, mount) = inner("mount", "source = \"/dev/x\";target = \"/srv/x\"");
            with("service.app", ("standby".into(), format!("{{ tier = \"cold\", mount = {mount} }}")))
        }
        () if is(&keys::LOG) => with("service.app", inner("log", "")),
        () if is(&keys::BALANCER) => ("balancer.app", key.to_owned(), example.to_owned()),
        () if is(&keys::DNS) => {
            let base = match key {
                "command" => "name = \"a.b\"",
                "key" => "name = \"a.b\";server = \"10.0.0.53\";secret = { env = \"S\" }",
                "secret" => "name = \"a.b\";server = \"10.0.0.53\";key = \"k\"",
                "zone" => "name = \"a.example.com\";server = \"10.0.0.53\"",
                _ => "name = \"a.b\";server = \"10.0.0.53\"",
            };
            with("balancer.app", inner("dns", base))
        }
        () if is(&keys::RETRY) => with("balancer.app", inner("retry", "")),
        () if is(&keys::EJECT) => with("balancer.app", inner("eject", "")),
        () if is(&keys::TIMEOUTS) => with("balancer.app", inner("timeouts", "")),
        () if is(&keys::LIMITS) => with("balancer.app", inner("limits", "")),
        () => ("drill.app", key.to_owned(), example.to_owned()),
    };
    let mut lines = BTreeMap::from(match table.split('.').next() {
        Some("service") => [("command", "[\"app\"]"), ("replicas", "3")],
        Some("balancer") => [("listen", "\"127.0.0.1:9090\""), ("service", "\"web\"")],
        Some("cluster") => match key {
            "cert" => [("etcd", "\"http://10.0.0.1:2379\""), ("key", "\"/k\"")],
            "key" => [("etcd", "\"http://10.0.0.1:2379\""), ("cert", "\"/c\"")],
            "password" => [("etcd", "\"http://10.0.0.1:2379\""), ("user", "\"u\"")],
            _ => [("etcd", "\"http://10.0.0.1:2379\""), ("name", "\"n\"")],
        },
        Some("node") if table != "node" => [("rack", "\"r\""), ("zone", "\"z\"")],
        Some("drill") => [("fault", "\"kill\""), ("target", "\"web\"")],
        _ => [("journal_days", "30"), ("zone", "\"z\"")],
    });
    match name.as_str() {
        "shell" => _ = lines.remove("command"),
        "type" => _ = lines.remove("replicas"),
        "virtual_ip" | "virtual_ip_interface" | "virtual_ip_lease" | "virtual_ip_prefer" => {
            lines.extend([("listen", "\"0.0.0.0:9090\""), ("virtual_ip", "\"10.0.0.100/24\"")]);
        }
        "standby" => {
            lines.remove("replicas");
            lines.insert("ready", "{ tcp = true }");
        }
        _ => {}
    }
    lines.insert(&name, &value);
    // The balancer of the examples listens elsewhere than the one under test.
    let others = if ["listen", "port"].contains(&key) { OTHERS.replace(":8080", ":8181") } else { OTHERS.to_owned() };
    let lines: Vec<String> = lines.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    format!("[{table}]\n{}{others}", lines.concat())
}

fn with(table: &'static str, (name, value): (String, String)) -> (&'static str, String, String) {
    (table, name, value)
}

#[test]
fn every_default_reads_and_is_spelt_as_it_is_shown() {
    for key in SECTIONS.iter().flat_map(|s| s.keys) {
        let Default::Is(text) = key.default else { continue };
        let again = match key.kind {
            Type::Duration { min, max } => {
                let d = parse_duration(text).unwrap();
                assert!(d >= parse_duration(min).unwrap() && d <= parse_duration(max).unwrap(), "{}", key.name);
                format_duration(d)
            }
            Type::Size { min, max } => {
                let n = parse_size(text).unwrap();
                assert!(n >= parse_size(min).unwrap() && n <= parse_size(max).unwrap(), "{}", key.name);
                format_size(n)
            }
            Type::Integer { min, max } => {
                let n: i64 = text.parse().unwrap();
                assert!((min..=max).contains(&n), "{}", key.name);
                n.to_string()
            }
            Type::Share => format_percent(parse_percent(text).unwrap()),
            Type::Bool => text.parse::<bool>().unwrap().to_string(),
            Type::Choice(words) => words.iter().find(|w| **w == text).unwrap().to_string(),
            _ => text.to_owned(),
        };
        assert_eq!(again, text, "{}", key.name);
    }
}

#[test]
fn every_example_is_accepted_and_every_key_is_told() {
    for section in SECTIONS {
        for key in section.keys {
            good(&file_with(section, key.name, key.example));
            assert!(key.doc.ends_with('.') && key.doc.len() > 10, "{}", key.name);
        }
    }
}

#[test]
fn the_hash_changes_exactly_for_keys_that_replace_instances() {
    let service_tables = [
        &keys::SERVICE,
        &keys::REFERENCE,
        &keys::RESTART,
        &keys::STARTUP,
        &keys::READY,
        &keys::LIVE,
        &keys::STOP,
        &keys::LOG,
    ];
    let mut told = 0;
    for section in service_tables {
        for key in section.keys {
            let plain = format!("[service.app]\ncommand = [\"app\"]\nreplicas = 3\nport = \"auto\"\n{OTHERS}");
            let mut text = file_with(section, key.name, key.example);
            if key.name != "port" {
                text = text.replacen("replicas = 3\n", "replicas = 3\nport = \"auto\"\n", 1);
            }
            let (old, new) = (good(&plain).config, good(&text).config);
            let (old, new) = (&old.services["app"], &new.services["app"]);
            if old == new {
                continue;
            }
            told += 1;
            let same = definition_hash(old) == definition_hash(new);
            // `stop.drain` is live, though it stands in a table of which the rest is not.
            assert_eq!(same, key.change == Change::Live, "{} {}", section.title, key.name);
        }
    }
    assert!(told > 40, "only {told} examples differ from their default");
}

#[test]
fn the_hash_is_the_same_in_every_release() {
    let config = good("[service.app]\ncommand = [\"app\", \"{port}\"]\nenv = { A = \"b\" }\n").config;
    assert_eq!(definition_hash(&config.services["app"]), 0x78d0_12dd_3756_f440);
}

#[test]
fn the_reference_in_docs_is_fresh() {
    let fresh = std::fs::read_to_string("../../docs/reference/configuration.md").is_ok_and(|text| text == reference());
    assert!(fresh, "docs/reference/configuration.md is stale: cargo run -p holdfast-config --example reference");
}

#[test]
fn the_examples_of_the_reference_have_no_weakness_but_their_machine() {
    let root = Environment { is_root: true, ..environment() };
    for example in [EXAMPLE, EXAMPLE_TASKS] {
        let loaded = parse(example, Path::new("/etc/holdfast.toml"), &root).unwrap();
        let codes: Vec<&str> = loaded.warnings.iter().map(|w| w.code).collect();
        assert_eq!(codes, [code::ONE_NODE], "{}", render(&loaded.warnings, &loaded.source, false, 80));
    }
}

#[test]
fn every_code_has_its_page() {
    let dir = Path::new("../../docs/errors");
    for (code, title) in code::ALL {
        let page = std::fs::read_to_string(dir.join(format!("{code}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {code}: {title}\n")), "{code}");
    }
}
