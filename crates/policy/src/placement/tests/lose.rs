//! What a cluster can lose, by table.

use super::rig::Rig;
use crate::placement::{Cluster, Loss, StoreMember, can_lose};

/// What speaks against losing `what`, `NODE` or `LABEL=VALUE`; store members on `store`, one with `!` is not healthy.
fn lose(topology: &str, store: &str, what: &str) -> Vec<String> {
    let rig = Rig::read(topology);
    let members: Vec<StoreMember> = store
        .split_whitespace()
        .map(|m| StoreMember { node: m.trim_end_matches('!').into(), healthy: !m.ends_with('!') })
        .collect();
    let loss = match what.split_once('=') {
        Some((label, value)) => Loss::Domain(label.into(), value.into()),
        None => Loss::Node(what.into()),
    };
    let (nodes, services, assigned) = (&rig.nodes, &rig.services, &rig.assigned);
    let cluster = Cluster { nodes, services, assigned, hold: rig.hold.clone() };
    can_lose(&cluster, &members, &loss).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn what_can_be_lost_by_table() {
    let site = "node n1 zone=a
                node n2 zone=a
                node n3 zone=b
                service web 3 min=2
                service db 2 distinct min=1
                service lone 1 min=1
                on n1 web-1 db-1A
                on n2 web-2 db-2S
                on n3 web-3 lone-1";
    let web = "web would have 1 ready, and needs min_available = 2";
    let db = "db is active on n1, and no standby elsewhere could take over";
    for (name, topology, store, what, expected) in [
        ("one of three", site.to_owned(), "n1 n2 n3", "n1", vec![]),
        ("a standby", site.to_owned(), "n1 n2 n3", "n2", vec![]),
        ("the only one", site.to_owned(), "", "n3", vec!["lone would have 0 ready, and needs min_available = 1"]),
        (
            "a zone",
            site.to_owned(),
            "n1 n2 n3",
            "zone=a",
            vec![
                web,
                "db would have 0 ready, and needs min_available = 1",
                db,
                "the coordination store would have 1 of 3 members, and needs 2",
            ],
        ),
        ("one is not ready", site.replace("web-3", "web-3!"), "", "n1", vec![web]),
        ("one is lost", site.replace("node n3 zone=b", "node n3 lost"), "", "n1", vec![web]),
        (
            "the standby cannot take over",
            site.replace("db-2S", "db-2S!"),
            "",
            "n1",
            vec!["db would have 0 ready, and needs min_available = 1", db],
        ),
        (
            "a member is ill",
            site.to_owned(),
            "n1 n2! n3",
            "n1",
            vec!["the coordination store would have 1 of 3 members, and needs 2"],
        ),
        ("the ill member itself", site.to_owned(), "n1 n2! n3", "n2", vec![]),
        ("the store elsewhere", site.to_owned(), "x1 x2", "n1", vec![]),
        ("nobody", site.to_owned(), "", "n7", vec!["no node is n7"]),
        ("no such rack", site.to_owned(), "", "rack=r1", vec!["no node is rack r1"]),
    ] {
        assert_eq!(lose(&topology, store, what), expected, "{name}");
    }
}
