//! The network between machines: cut both ways and one way, lossy, slow, and healed.

use std::net::UdpSocket;
use std::time::Duration;

use holdfast_lab::{Direction, Fault, Lab, Machine, Options};

/// Long against a millisecond on the bridge, short for the tests that wait for silence.
const SILENCE: Duration = Duration::from_millis(300);

fn socket(machine: &Machine) -> UdpSocket {
    machine
        .within(|| {
            let socket = UdpSocket::bind((machine.addr().as_str(), 0)).expect("bind");
            socket.set_read_timeout(Some(SILENCE)).expect("timeout");
            socket
        })
        .expect("enter")
}

/// Whether a packet from `from` arrives at `to`; asked a few times, because the first may wait for an address.
pub(crate) fn hears(from: &Machine, to: &Machine) -> bool {
    let (sender, receiver) = (socket(from), socket(to));
    let target = receiver.local_addr().expect("bound");
    (0..3).any(|_| {
        sender.send_to(b"x", target).expect("send");
        receiver.recv(&mut [0; 8]).is_ok()
    })
}

/// Both ways.
pub(crate) fn answers(a: &Machine, b: &Machine) -> bool {
    hears(a, b) && hears(b, a)
}

fn lab(machines: usize) -> Option<Lab> {
    Lab::or_skip(&Options { machines, ..Options::default() })
}

#[test]
fn isolated_both_ways_and_one_way_and_healed() {
    let Some(lab) = lab(2) else { return };
    let (a, b) = (lab.machine(0), lab.machine(1));
    // Both know the other's hardware address: one-way faults cut that question too.
    assert!(answers(a, b));
    for (direction, leaves, arrives) in
        [(Direction::Both, false, false), (Direction::In, true, false), (Direction::Out, false, true)]
    {
        let fault = a.isolate(direction).expect("inject");
        assert_eq!((hears(a, b), hears(b, a)), (leaves, arrives), "{direction:?}");
        fault.heal();
        assert!(answers(a, b), "healed after {direction:?}");
    }
}

#[test]
fn isolated_from_some_only() {
    let Some(lab) = lab(3) else { return };
    let [a, b, c] = [0, 1, 2].map(|i| lab.machine(i));
    let fault = a.isolate_from(&[b], Direction::Both).expect("inject");
    assert!(!hears(a, b) && !hears(b, a));
    assert!(answers(a, c) && answers(b, c));
    drop(fault);
    assert!(answers(a, b));
}

#[test]
fn two_faults_at_once_heal_one_by_one() {
    let Some(lab) = lab(3) else { return };
    let [a, b, c] = [0, 1, 2].map(|i| lab.machine(i));
    let first = a.isolate_from(&[b], Direction::Both).expect("inject");
    let second = a.isolate_from(&[b, c], Direction::Both).expect("inject");
    drop(first);
    assert!(!hears(a, b) && !hears(a, c));
    drop(second);
    assert!(answers(a, b) && answers(a, c));
}

#[test]
fn a_rule_that_is_none_is_an_error() {
    let Some(lab) = lab(1) else { return };
    assert!(lab.machine(0).loss(140.0).is_err());
    let error = lab.machine(0).isolate_from(&[], Direction::Both).err().expect("an empty set is no rule");
    assert!(error.to_string().contains("syntax error"), "{error}");
}

/// Packets of each measurement.
const SENT: usize = 4000;

/// Sends `SENT` packets of 100 bytes, as fast as the receiver takes them, and counts what arrives.
fn count_arrivals(a: &Machine, b: &Machine) -> usize {
    let (sender, receiver) = (socket(a), socket(b));
    let target = receiver.local_addr().expect("bound");
    let mut arrived = 0;
    for _ in 0..SENT / 100 {
        for _ in 0..100 {
            sender.send_to(&[0; 100], target).expect("send");
        }
        receiver.set_nonblocking(true).expect("nonblocking");
        while receiver.recv(&mut [0; 100]).is_ok() {
            arrived += 1;
        }
    }
    receiver.set_nonblocking(false).expect("blocking");
    while receiver.recv(&mut [0; 100]).is_ok() {
        arrived += 1;
    }
    arrived
}

#[test]
fn loss_is_as_much_as_was_asked_for() {
    let Some(lab) = lab(2) else { return };
    let (a, b) = (lab.machine(0), lab.machine(1));
    assert_eq!(count_arrivals(a, b), SENT);
    let lost_with = |percent: f64, fault: Fault| {
        let lost = 100.0 * (1.0 - count_arrivals(a, b) as f64 / SENT as f64);
        fault.heal();
        println!("{percent} % asked for, {lost:.1} % lost");
        // Five standard deviations: once in a million runs.
        let allowed = 5.0 * (percent * (100.0 - percent) / SENT as f64).sqrt();
        assert!((lost - percent).abs() < allowed, "{percent} % asked for, {lost:.1} % lost");
    };
    lost_with(10.0, a.loss(10.0).expect("inject"));
    lost_with(50.0, lab.loss(50.0).expect("inject"));
    assert_eq!(count_arrivals(a, b), SENT);
}

#[test]
fn a_policed_link_drops_what_is_over_its_rate() {
    let Some(lab) = lab(2) else { return };
    let (a, b) = (lab.machine(0), lab.machine(1));
    let fault = a.police(10).expect("inject");
    let arrived = count_arrivals(a, b);
    assert!(arrived > 0 && arrived < SENT / 2, "{arrived}");
    drop(fault);
    assert_eq!(count_arrivals(a, b), SENT);
}

#[test]
fn two_labs_have_nothing_in_common() {
    let (Some(one), Some(two)) = (lab(2), lab(2)) else { return };
    assert_eq!(one.machine(0).addr(), two.machine(0).addr());
    let fault = one.machine(0).isolate(Direction::Both).expect("inject");
    assert!(!hears(one.machine(0), one.machine(1)));
    assert!(answers(two.machine(0), two.machine(1)));
    drop(fault);
    two.machine(0).kill_all().expect("kill");
    assert!(answers(one.machine(0), one.machine(1)));
    drop(two);
    assert!(answers(one.machine(0), one.machine(1)));
}
