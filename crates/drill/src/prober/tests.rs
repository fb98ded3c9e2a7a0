//! The prober against real servers that stall, close and lie.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;

/// One thread per connection; answers each request head with `answer`, once `gate` lets it.
fn serve(answer: &'static str, gate: impl Fn() + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let gate = Arc::new(gate);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || answer_all(stream, answer, &*gate));
        }
    });
    addr
}

fn answer_all(mut stream: TcpStream, answer: &str, gate: &dyn Fn()) {
    let mut seen = Vec::new();
    let mut chunk = [0u8; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        seen.extend_from_slice(&chunk[..n]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            gate();
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn plan(target: SocketAddr, rate: u32) -> Plan {
    Plan { target, host: "test".into(), path: "/".into(), rate, limit: Duration::from_secs(3), body_hash: None }
}

/// The server's own slowness.
fn hold_for(time: Duration) {
    std::thread::sleep(time);
}

fn wait_for_requests(prober: &Prober, n: u64) {
    let start = Instant::now();
    while prober.counts().finished < n {
        assert!(start.elapsed() < Duration::from_secs(20), "only {:?}", prober.counts());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_rate_is_kept_and_nothing_fails() {
    let prober = Prober::start(plan(serve(HELLO, || ()), 500)).unwrap();
    wait_for_requests(&prober, 500);
    let records = prober.finish();
    let span = records.last().unwrap().intended.since(records[0].intended);
    let rate = (records.len() - 1) as f64 / span.as_secs_f64();
    assert!((499.0..501.0).contains(&rate), "{rate}");
    let summary = summarize(&records);
    assert_eq!(summary.failed, 0);
}

#[test]
fn a_stall_costs_every_request_that_it_delays() {
    // All requests that arrive in the stall wait for its end, so with 100 requests a second a stall of one
    // second must be seen by about a hundred of them, evenly between 0 and 1 s. A closed loop would see one.
    static STALL: AtomicBool = AtomicBool::new(false);
    let addr = serve(HELLO, || {
        while STALL.load(Ordering::Relaxed) {
            hold_for(Duration::from_millis(1));
        }
    });
    let prober = Prober::start(plan(addr, 100)).unwrap();
    wait_for_requests(&prober, 20);
    STALL.store(true, Ordering::Relaxed);
    let stalled = clock::now();
    hold_for(Duration::from_secs(1));
    STALL.store(false, Ordering::Relaxed);
    let over = clock::now();
    wait_for_requests(&prober, 160);
    let records = prober.finish();
    let in_stall: Vec<&Record> = records.iter().filter(|r| r.intended >= stalled && r.intended < over).collect();
    assert!((90..=130).contains(&in_stall.len()), "{}", in_stall.len());
    for record in &in_stall {
        let owed = over.since(record.intended);
        assert!(record.latency() + Duration::from_millis(5) >= owed, "{record:?} owed {owed:?}");
        assert!(record.end.is_good());
    }
    let half_second = in_stall.iter().filter(|r| r.latency() >= Duration::from_millis(500)).count();
    assert!(half_second >= 40, "{half_second}");
}

#[test]
fn a_body_that_is_not_the_expected_one_fails() {
    let addr = serve(HELLO, || ());
    for (body, fails) in [("hello", false), ("hallo", true)] {
        let prober = Prober::start(Plan { body_hash: Some(fnv1a(body.as_bytes())), ..plan(addr, 200) }).unwrap();
        wait_for_requests(&prober, 20);
        let records = prober.finish();
        assert!(records.iter().all(|r| (r.end == End::WrongBody) == fails), "{records:?}");
    }
}

#[test]
fn nobody_listening_is_a_failure_each_time() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let prober = Prober::start(plan(addr, 200)).unwrap();
    wait_for_requests(&prober, 20);
    let counts = prober.counts();
    assert_eq!(counts.finished, counts.failed);
    assert!(prober.finish().iter().all(|r| r.end == End::NotConnected));
}

#[test]
fn an_answer_past_the_limit_is_a_failure_and_no_wait_is_longer() {
    let addr = serve(HELLO, || hold_for(Duration::from_secs(2)));
    let limit = Duration::from_millis(200);
    let prober = Prober::start(Plan { limit, ..plan(addr, 50) }).unwrap();
    wait_for_requests(&prober, 5);
    for record in prober.finish() {
        assert_eq!(record.end, End::TimedOut);
        assert!(record.done.since(record.sent) < limit + Duration::from_millis(150), "{record:?}");
    }
}

#[test]
fn every_tenth_request_has_a_connection_of_its_own() {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            CONNECTIONS.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || answer_all(stream, HELLO, &|| ()));
        }
    });
    let prober = Prober::start(plan(addr, 100)).unwrap();
    wait_for_requests(&prober, 60);
    let requests = prober.finish().len() as u64;
    let connections = CONNECTIONS.load(Ordering::Relaxed);
    assert!(connections > requests / FRESH_EVERY, "{connections} for {requests}");
    assert!(connections < requests / 2, "{connections} for {requests}");
}
