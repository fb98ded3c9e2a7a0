//! Rules of queues, workers and workflows that are told apart by little.

use std::path::Path;

use crate::{Environment, parse};

use super::environment;

fn told(text: &str) -> Vec<String> {
    let root = Environment { is_root: true, ..environment() };
    let found = match parse(text, Path::new("/etc/holdfast.toml"), &root) {
        Ok(loaded) => loaded.warnings,
        Err(failed) => failed.diagnostics,
    };
    found.into_iter().filter(|d| d.code >= "HF0160" && d.code < "HF0200").map(|d| d.code.to_owned()).collect()
}

#[test]
fn without_keys_queues_are_for_this_machine_alone() {
    let key = "[key.k]\nid = \"KEY\"\nsecret = { env = \"K\" }\n";
    for (listen, keys, codes) in [
        ("127.0.0.1:9324", "", &[][..]),
        ("127.1.2.3:9324", "", &[]),
        ("[::1]:9324", "", &[]),
        ("0.0.0.0:9324", "", &["HF0160"]),
        ("[::]:9324", "", &["HF0160"]),
        ("10.0.0.1:9324", "", &["HF0160"]),
        ("10.0.0.1:9324", key, &[]),
    ] {
        assert_eq!(told(&format!("[tasks]\nlisten = \"{listen}\"\n{keys}")), codes, "{listen} {keys}");
    }
}

#[test]
fn a_cluster_says_where_its_queues_live_and_that_it_is_one_machine() {
    let cluster = "[cluster]\netcd = \"http://10.0.0.1:2379\"\n";
    let key = "[key.k]\nid = \"KEY\"\nsecret = { env = \"K\" }\n";
    for (tasks, codes) in [
        ("", &[][..]),
        ("[queue.a]\n", &["HF0161", "HF0162"]),
        ("[tasks]\nnode = \"a\"\n", &["HF0161", "HF0162"]),
        ("[tasks]\nsingle_node = \"accepted\"\n", &["HF0161", "HF0162"]),
        ("[tasks]\nnode = \"a\"\nsingle_node = \"accepted\"\n", &["HF0162"]),
        ("[tasks]\nnode = \"a\"\nsingle_node = \"accepted\"\nlisten = \"0.0.0.0:9324\"\n", &[]),
        ("[tasks]\npostgres = \"postgres://u@db/q\"\n", &[]),
        ("[tasks]\nnode = \"a\"\npostgres = \"postgres://u@db/q\"\n", &["HF0161"]),
    ] {
        let keys = if tasks.is_empty() { "" } else { key };
        let mut found = told(&format!("{cluster}{tasks}{keys}"));
        found.sort();
        assert_eq!(found, codes, "{tasks}");
    }
}

#[test]
fn a_database_is_named_whole_and_without_its_password() {
    for (lines, fine) in [
        ("postgres = \"postgres://u@db:5432/q\"", true),
        ("postgres = \"postgresql://u@a:5432,b:5433/q?sslmode=disable\"", true),
        ("postgres = \"postgres://u@db/q\"\npostgres_password = { file = \"/p\" }", true),
        ("postgres = \"mysql://u@db/q\"", false),
        ("postgres = \"postgres://db/q\"", false),
        ("postgres = \"postgres://u@db\"", false),
        ("postgres = \"postgres://u@db/?sslmode=disable\"", false),
        ("postgres = \"postgres://u:secret@db/q\"", false),
        ("postgres = \"postgres://u@db/q?password=secret\"", false),
        ("postgres_password = { file = \"/p\" }", false),
        ("postgres = \"postgres://u@db/q\"\npostgres_password = \"secret\"", false),
    ] {
        let read = parse(&format!("[tasks]\n{lines}\n"), Path::new("/etc/holdfast.toml"), &environment());
        assert_eq!(read.is_ok(), fine, "{lines}");
    }
}

#[test]
fn dead_letters_come_to_rest_in_a_queue_that_is_alike() {
    let queues = |a: &str, b: &str| told(&format!("[queue.a]\n{a}\n[queue.b]\n{b}\n"));
    let to_b = "dead_letter = { queue = \"b\" }";
    assert_eq!(queues(to_b, ""), [""; 0]);
    assert_eq!(queues(to_b, "fifo = true"), ["HF0163"]);
    assert_eq!(queues(&format!("{to_b}\nfifo = true"), "fifo = true"), [""; 0]);
    assert_eq!(queues(to_b, "dead_letter = { queue = \"a\" }"), ["HF0163"]);
    assert_eq!(queues("dead_letter = { queue = \"a\" }", ""), ["HF0163"]);
    assert_eq!(queues(to_b, "retention = \"1d\""), ["HF0164"]);
    assert_eq!(queues(to_b, "retention = \"30d\""), [""; 0]);
}

#[test]
fn who_crashes_workers_needs_a_place_to_go() {
    let worker = "[worker.w]\nqueue = \"a\"\ncommand = [\"w\"]\n";
    assert_eq!(told("[queue.a]\n"), [""; 0], "nobody works on it here");
    assert_eq!(told("[queue.a]\ncrashes = 2\n"), ["HF0165"]);
    assert_eq!(told(&format!("[queue.a]\n{worker}")), ["HF0165"]);
    assert_eq!(told(&format!("[queue.a]\ndead_letter = {{ queue = \"b\" }}\n[queue.b]\n{worker}")), [""; 0]);
    let of_dead_letters = "[queue.b]\ndead_letter = { queue = \"a\" }\n[queue.a]\n";
    assert_eq!(told(&format!("{of_dead_letters}{worker}")), [""; 0], "the last station");
}

/// A saga of steps `name: after, more`.
fn saga(steps: &[(&str, &str, &str)]) -> Vec<String> {
    let step = |(name, after, more): &(&str, &str, &str)| {
        let after = if after.is_empty() { String::new() } else { format!("after = [{after}]\n") };
        let work = if more.contains("sleep") { "" } else { "command = [\"x\"]\n" };
        format!("[workflow.w.step.{name}]\n{work}{after}{more}\n")
    };
    told(&steps.iter().map(step).collect::<String>())
}

#[test]
fn a_saga_goes_back_before_its_pivot_and_forward_behind_it() {
    let (undo, pivot) = ("undo = { command = [\"u\"] }", "kind = \"pivot\"");
    let none = [""; 0];
    assert_eq!(saga(&[("a", "", undo), ("b", "\"a\"", undo)]), none);
    assert_eq!(saga(&[("a", "", undo), ("b", "\"a\"", "")]), none, "retriable at the end");
    assert_eq!(saga(&[("a", "", undo), ("b", "", "")]), ["HF0172"], "which may be done before `a` fails");
    assert_eq!(saga(&[("a", "", "kind = \"compensable\""), ("b", "\"a\"", undo)]), none, "nothing to undo");
    assert_eq!(saga(&[("a", "", undo), ("p", "\"a\"", pivot), ("b", "\"p\"", "")]), none);
    assert_eq!(saga(&[("a", "", undo), ("p", "\"a\"", pivot), ("b", "\"p\"", undo)]), ["HF0172"]);
    assert_eq!(saga(&[("a", "", undo), ("p", "\"a\"", pivot), ("b", "\"a\"", "")]), ["HF0172"]);
    assert_eq!(saga(&[("a", "", undo), ("p", "", pivot)]), ["HF0172"], "beside the pivot");
    assert_eq!(saga(&[("a", "", undo), ("p", "\"a\"", pivot), ("q", "\"p\"", pivot)]), ["HF0172"]);
    assert_eq!(saga(&[("a", "", undo), ("p", "\"a\"", &format!("{pivot}\n{undo}"))]), ["HF0172"]);
    assert_eq!(saga(&[("a", "", undo), ("b", "\"a\"", "trigger = \"all-done\"")]), ["HF0172"]);
    assert_eq!(saga(&[("a", "", pivot)]), ["HF0172"], "no saga");
}

#[test]
fn waiting_goes_with_what_is_around_it() {
    let (undo, sleep) = ("undo = { command = [\"u\"] }", "sleep = \"1s\"");
    let none = [""; 0];
    assert_eq!(saga(&[("s", "", sleep), ("a", "\"s\"", undo), ("p", "\"a\"", "kind = \"pivot\"")]), none);
    assert_eq!(saga(&[("a", "", undo), ("p", "\"a\"", "kind = \"pivot\""), ("s", "\"p\"", sleep)]), none);
}
