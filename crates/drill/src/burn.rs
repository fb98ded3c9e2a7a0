//! The busy fault: one request after another to one instance's own endpoint, each burning its CPU, until the
//! hold is over. No undo: it ends with the request, or with this process.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use holdfast_host::clock;
use holdfast_policy::Timestamp;

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// `{ms}` and `{seconds}` in `path` become the time left. Returns once the first request is sent.
pub(crate) fn start(addr: SocketAddr, path: &str, hold: Duration) -> io::Result<()> {
    let until = clock::now() + hold;
    let first = ask(addr, path, until)?;
    let path = path.to_owned();
    std::thread::Builder::new().name("busy".into()).spawn(move || {
        read_out(first, until);
        while clock::now() < until {
            match ask(addr, &path, until) {
                Ok(stream) => read_out(stream, until),
                Err(e) => tracing::debug!(error = %e, "the busy instance takes no request"),
            }
            std::thread::sleep(PAUSE);
        }
    })?;
    Ok(())
}

fn ask(addr: SocketAddr, path: &str, until: Timestamp) -> io::Result<TcpStream> {
    let left = clock::now().until(until);
    let path = path
        .replace("{ms}", &left.as_millis().to_string())
        .replace("{seconds}", &left.as_secs_f64().ceil().to_string());
    let mut stream = TcpStream::connect_timeout(&addr, CONNECT_LIMIT)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n")?;
    Ok(stream)
}

fn read_out(mut stream: TcpStream, until: Timestamp) {
    let mut chunk = [0u8; 4096];
    loop {
        let left = clock::now().until(until);
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut chunk) {
            Ok(1..) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}
