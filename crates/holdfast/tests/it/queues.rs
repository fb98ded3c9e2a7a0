//! Queues through the real binary: SQS clients, workers, dead letters, and the death of whatever takes part.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::site::{Site, free_port, kill, wait_a_moment};

mod clients;
mod database;
mod drills;
mod fallback;
mod full;
mod killed;
mod leases;
mod moves;
mod plane;
mod points;
mod poison;
mod power;
mod shop;
mod workers;

/// A client of SQS that says what it got, nothing more: JSON 1.0 over one connection, without a signature.
pub(crate) struct Sqs {
    port: u16,
    stream: Option<TcpStream>,
}

/// Why there was no answer with 200.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nobody knows whether it was done.
    Unknown,
    /// With this answer, so nothing was done.
    Refused(String),
}

impl Sqs {
    pub(crate) fn new(port: u16) -> Sqs {
        Sqs { port, stream: None }
    }

    pub(crate) fn ask(&mut self, action: &str, body: &Value) -> Result<Value, Failed> {
        let answer = self.exchange(action, &body.to_string());
        if answer.is_err() {
            self.stream = None;
        }
        let (status, text) = answer.map_err(|_| Failed::Unknown)?;
        match status {
            200 if text.is_empty() => Ok(Value::Null),
            200 => serde_json::from_str(&text).map_err(|_| Failed::Unknown),
            500.. => Err(Failed::Unknown),
            _ => Err(Failed::Refused(text)),
        }
    }

    pub(crate) fn ok(&mut self, action: &str, body: &Value) -> Value {
        match self.ask(action, body) {
            Ok(answer) => answer,
            Err(Failed::Refused(text)) => panic!("{action}: {text}"),
            Err(Failed::Unknown) => panic!("{action}: no answer"),
        }
    }

    pub(crate) fn url(&self, queue: &str) -> String {
        format!("http://127.0.0.1:{}/000000000000/{queue}", self.port)
    }

    fn exchange(&mut self, action: &str, body: &str) -> std::io::Result<(u16, String)> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                stream.set_nodelay(true)?;
                none.insert(stream)
            }
        };
        let head = format!(
            "POST / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: application/x-amz-json-1.0\r\n\
             x-amz-target: AmazonSQS.{action}\r\ncontent-length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut text = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            let n = stream.read(&mut chunk)?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            text.extend_from_slice(&chunk[..n]);
            if let Some(answer) = parse(&text) {
                return Ok(answer);
            }
        }
    }
}

/// Status and body, once all of it is there.
fn parse(bytes: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (body.len() >= length).then(|| (status, body[..length].to_owned()))
}

fn queue(site: &Site, name: &str) -> Value {
    let all: Value = serde_json::from_str(&site.ok(&["queue", "list", "--json"])).expect("JSON");
    all.as_array().into_iter().flatten().find(|q| q["name"] == name).cloned().unwrap_or(Value::Null)
}

#[test]
fn a_queue_of_the_file_is_there_for_clients_and_for_the_command_line() {
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n\
         [queue.mail]\ndead_letter = {{ queue = \"mail-dead\", receives = 2 }}\nvisibility_timeout = \"1s\"\n[queue.mail-dead]\n"
    ));
    site.up();
    let mut sqs = Sqs::new(port);
    let url = sqs.url("mail");
    let sent = sqs.ok("SendMessage", &json!({ "QueueUrl": url, "MessageBody": "hello" }));
    assert_eq!(sent["MD5OfMessageBody"], "5d41402abc4b2a76b9719d911017c592");
    let said = site.ok(&["queue", "send", "mail", "from the shell", "--idempotency-key", "k1"]);
    assert!(said.starts_with("sent "), "{said}");
    let again = site.ok(&["queue", "send", "mail", "from the shell", "--idempotency-key", "k1"]);
    assert_eq!(again.replace("sent before as ", "sent "), said);
    assert_eq!(queue(&site, "mail")["visible"], 2);
    // Received twice and never deleted, both are buried; then they come back.
    site.wait_for("two dead letters", || {
        sqs.ok("ReceiveMessage", &json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1 }));
        queue(&site, "mail-dead")["visible"] == 2
    });
    let looked = site.ok(&["queue", "peek", "mail-dead"]);
    assert!(looked.contains("dead letter of mail (receives)") && looked.contains("from the shell"), "{looked}");
    assert!(site.ok(&["queue", "redrive", "mail-dead"]).contains("moving 2 messages"));
    site.wait_for("them to be back", || queue(&site, "mail")["visible"] == 2);
    assert!(site.ok(&["queue", "moves", "mail-dead"]).contains("completed"));
    assert_eq!(site.run(&["queue", "purge", "mail"]).code, 5, "it wants to be confirmed");
    site.ok(&["queue", "purge", "mail", "--yes"]);
    assert_eq!(queue(&site, "mail")["visible"], 0);
    assert_eq!(site.run(&["queue", "peek", "nothing"]).code, 64);
}

#[test]
fn a_changed_file_changes_queues_and_the_address() {
    let (first, second) = (free_port(), free_port());
    let file = |port: u16, rest: &str| format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\n[queue.a]\n{rest}");
    let site = Site::new(&file(first, ""));
    site.up();
    let attributes = |sqs: &mut Sqs, name: &str| {
        let url = sqs.url(name);
        sqs.ask("GetQueueAttributes", &json!({ "QueueUrl": url, "AttributeNames": ["VisibilityTimeout"] }))
    };
    assert_eq!(attributes(&mut Sqs::new(first), "a").expect("there")["Attributes"]["VisibilityTimeout"], "30");
    site.ok(&["queue", "send", "a", "stays"]);
    site.write(&file(second, "visibility_timeout = \"7s\"\n[queue.b]\n"));
    site.up();
    let mut sqs = Sqs::new(second);
    site.wait_for("the new address", || attributes(&mut sqs, "b").is_ok());
    assert_eq!(attributes(&mut sqs, "a").expect("there")["Attributes"]["VisibilityTimeout"], "7");
    assert_eq!(queue(&site, "a")["visible"], 1);
}
