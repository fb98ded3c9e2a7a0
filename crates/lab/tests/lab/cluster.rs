//! etcd in the lab: elected, bereaved, without quorum, stalled, restored.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use holdfast_lab::{ETCD_READY_LIMIT, Error, Lab, Options};

use crate::machines::wait_for;

const QUICK: [&str; 2] = ["--command-timeout=2s", "--dial-timeout=1s"];

fn put(lab: &Lab, key: &str, value: &str) -> bool {
    lab.etcdctl(&[QUICK[0], QUICK[1], "put", key, value]).is_ok()
}

fn get(lab: &Lab, key: &str) -> String {
    lab.etcdctl(&[QUICK[0], QUICK[1], "get", "--print-value-only", key]).unwrap_or_default().trim().to_owned()
}

fn three() -> Option<Lab> {
    Lab::or_skip(&Options { machines: 1, etcd: 3, ..Options::default() })
}

#[test]
fn three_members_outlive_one_and_not_two() {
    let Some(lab) = three() else { return };
    let leader = lab.etcd_leader().expect("a leader");
    let version = lab.etcd(leader).status(&lab).expect("a status").version;
    println!("etcd {version}");
    lab.etcd(leader).machine().kill_all().expect("kill");
    lab.wait_for_etcd(ETCD_READY_LIMIT).expect("a new leader");
    let next = lab.etcd_leader().expect("a leader");
    assert_ne!(leader, next);
    lab.etcd(next).kill().expect("kill");
    assert!(!lab.etcd(next).is_running());
    assert!(!put(&lab, "k", "lost"), "a write without quorum");
    lab.etcd(next).start().expect("start");
    lab.wait_for_etcd(ETCD_READY_LIMIT).expect("quorum again");
    lab.etcd(leader).machine().boot().expect("boot");
    lab.etcd(leader).start().expect("start");
    wait_for("all have the same leader", || {
        let leaders: Vec<u64> =
            lab.members().iter().filter_map(|m| m.status(&lab)).map(|s| s.leader).filter(|id| *id != 0).collect();
        leaders.len() == 3 && leaders.iter().all(|id| *id == leaders[0])
    });
}

#[test]
fn a_node_loses_etcd_alone() {
    let Some(lab) = three() else { return };
    let node = lab.machine(0);
    let member = lab.etcd(0).machine().addr();
    let connects = |port: u16| {
        node.within(|| {
            let target = format!("{member}:{port}").parse().expect("an address");
            TcpStream::connect_timeout(&target, Duration::from_millis(500)).is_ok()
        })
        .expect("enter")
    };
    assert!(connects(2379));
    let fault = node.isolate_from_etcd().expect("inject");
    assert!(!connects(2379) && connects(2380));
    assert!(put(&lab, "k", "v"), "others reach it");
    drop(fault);
    assert!(connects(2379));
}

#[test]
fn a_snapshot_takes_everything_back() {
    let options = Options { machines: 3, etcd: 3, etcd_on_nodes: true, ..Options::default() };
    let Some(lab) = Lab::or_skip(&options) else { return };
    assert!(lab.etcd_machines().is_empty());
    assert!(put(&lab, "k", "yesterday"));
    let snapshot = lab.etcd_snapshot().expect("snapshot");
    assert!(put(&lab, "k", "today"));
    lab.etcd_restore(&snapshot, holdfast_lab::ETCD_TOKEN).expect("restore");
    assert_eq!(get(&lab, "k"), "yesterday");
}

#[test]
fn a_stalled_member_is_alive_and_slow() {
    let Some(lab) = Lab::or_skip(&Options { etcd: 1, ..Options::default() }) else { return };
    let member = lab.etcd(0);
    member.stop().expect("stop");
    assert!(!put(&lab, "k", "1"));
    member.cont().expect("continue");
    wait_for("it answers again", || put(&lab, "k", "2"));
    let stalls = member.stalls(Duration::from_millis(200), Duration::from_millis(400)).expect("stalls");
    let slowest = (0..10).map(|_| {
        let began = Instant::now();
        assert!(put(&lab, "k", "3"));
        began.elapsed()
    });
    let slowest = slowest.max().expect("ten writes");
    drop(stalls);
    assert!(slowest > Duration::from_millis(100), "{slowest:?}");
    assert_eq!(get(&lab, "k"), "3");
}

#[test]
fn a_slow_disk_slows_its_member_alone() {
    let Some(lab) = Lab::or_skip(&Options { etcd: 3, ..Options::default() }) else { return };
    let leader = lab.etcd_leader().expect("a leader");
    let slow = match lab.etcd(leader).machine().slow_disk(10) {
        Ok(slow) => slow,
        Err(Error::Skipped { reason }) => return println!("skipped: {reason}"),
        Err(error) => panic!("{error}"),
    };
    let syncs = |i: usize| {
        let machine = lab.etcd(i).machine();
        let began = Instant::now();
        machine.run(&["dd", "if=/dev/zero", "of=synced", "bs=512", "count=20", "oflag=dsync"]).expect("dd");
        began.elapsed()
    };
    // 20 writes at 10 a second, less the slice that may be used at once.
    let slowed = syncs(leader);
    assert!(slowed > Duration::from_millis(1_500), "{slowed:?}");
    let other = syncs((leader + 1) % 3);
    assert!(other < slowed, "{other:?} without, {slowed:?} with the limit");
    drop(slow);
    let healed = syncs(leader);
    assert!(healed < slowed, "{healed:?} after, {slowed:?} with the limit");
}

#[test]
fn a_crash_ends_connections_and_a_loss_of_power_is_silent() {
    let Some(lab) = Lab::or_skip(&Options { etcd: 1, ..Options::default() }) else { return };
    let member = lab.etcd(0);
    let connect = || {
        let target = format!("{}:2379", member.machine().addr()).parse().expect("an address");
        let stream = lab.client().within(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)));
        let stream = stream.expect("enter").expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
        stream
    };
    let read = |mut stream: TcpStream| stream.read(&mut [0; 64]).map_err(|e| e.kind());
    let connection = connect();
    member.kill().expect("kill");
    assert!(matches!(read(connection), Ok(0) | Err(ErrorKind::ConnectionReset)), "a crash is noticed");
    member.start().expect("start");
    lab.wait_for_etcd(ETCD_READY_LIMIT).expect("ready");
    let connection = connect();
    member.machine().kill_all().expect("kill");
    assert_eq!(read(connection), Err(ErrorKind::WouldBlock), "nobody is left to end it");
}
