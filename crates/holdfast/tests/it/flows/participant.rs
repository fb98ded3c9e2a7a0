//! A participant of sagas: a service that counts what each key has done.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// A request, as far as a participant looks at it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) key: String,
    pub(super) operation: String,
}

/// What is answered to a path, by how often it was asked: the last one goes on.
type Answers = BTreeMap<String, Vec<u16>>;

#[derive(Clone)]
pub(super) struct Participant {
    pub(super) port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<Answers>>,
}

impl Participant {
    pub(super) fn new(answers: &[(&str, &[u16])]) -> Participant {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answers = answers.iter().map(|(path, all)| ((*path).to_owned(), all.to_vec())).collect();
        let this = Participant { port, asked: Arc::default(), answers: Arc::new(Mutex::new(answers)) };
        let server = this.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.answer(stream));
            }
        });
        this
    }

    pub(super) fn set(&self, path: &str, answers: &[u16]) {
        self.answers.lock().expect("no panic").insert(path.to_owned(), answers.to_vec());
    }

    pub(super) fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().expect("no panic")
    }

    /// Paths in the order of their first success.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for asked in self.asked().iter() {
            if !seen.contains(&asked.path) {
                seen.push(asked.path.clone());
            }
        }
        seen
    }

    fn answer(&self, mut stream: TcpStream) {
        let Some((asked, body)) = read(&stream) else { return };
        let path = asked.path.clone();
        let times = {
            let mut all = self.asked();
            all.push(asked);
            all.iter().filter(|asked| asked.path == path).count()
        };
        let answers = self.answers.lock().expect("no panic").get(&path).cloned().unwrap_or_else(|| vec![200]);
        let status = answers[times.min(answers.len()) - 1];
        if status == 0 {
            // It was done, and nobody hears of it.
            return;
        }
        let text = format!("{{\"path\":\"{path}\",\"body\":{}}}", serde_json::Value::String(body));
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
        drop(stream.write_all(head.as_bytes()));
    }
}

fn read(stream: &TcpStream) -> Option<(Asked, String)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let asked = Asked { path, key: header("idempotency-key"), operation: header("x-holdfast-operation") };
    Some((asked, String::from_utf8_lossy(&body).into_owned()))
}
