//! A small server: a thread per connection; `/burn?ms=N` burns CPU for so long under a lock that everyone needs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) fn serve() {
    let port: u16 = std::env::var("DRILL_PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    // Ends with the test that started it, however that ends: its pipe breaks.
    std::thread::spawn(|| {
        let mut nothing = [0u8; 1];
        std::io::stdin().read_exact(&mut nothing).ok();
        std::process::exit(0);
    });
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut chunk = [0u8; 2048];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(n @ 1..) => head.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let burn = text.split_once("/burn?ms=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let turn = ONE_AT_A_TIME.lock().unwrap();
    let until = Instant::now() + Duration::from_millis(burn.unwrap_or(0));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    drop(turn);
    let body = std::process::id().to_string();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).ok();
}
