//! A client that sends exactly the bytes it is given.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::backend::{Seen, read_body, read_head};

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// An answer; `line` of the head tells the status.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) seen: Seen,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.seen.header(name)
    }
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Client {
        Client::try_connect(addr).unwrap()
    }

    pub(crate) fn try_connect(addr: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect(addr).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Client { reader: BufReader::new(stream.try_clone().ok()?), stream })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        // A refused request may close the connection while it is still being sent.
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// `None` when the connection ended instead.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut seen = read_head(&mut self.reader)?;
        let status: u16 = seen.line.split(' ').nth(1)?.parse().ok()?;
        if status >= 200 {
            read_body(&mut self.reader, &mut seen);
        }
        Some(Answer { status, seen })
    }

    pub(crate) fn get(&mut self, path: &str) -> Option<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).answer()
    }

    pub(crate) fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.reader
    }
}

/// One GET on a connection of its own.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Option<Answer> {
    Client::connect(addr).get(path)
}
