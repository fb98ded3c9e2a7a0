//! A client of SQS in JSON over kept connections: one thread a batch, so that the server is what is measured.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::case::{BATCH, BODY_BYTES, Case, Count, Work, body};
use crate::wire::Message;

/// A request that takes longer has failed; receives wait for a part of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const RECEIVE_WAIT_SECONDS: u32 = 5;

/// Messages are in the queue for each receive of a closed loop; it does not stay empty-handed for longer.
const RECEIVED_WITHIN: Duration = Duration::from_secs(30);

const RECEIPT: &str = "\"ReceiptHandle\":\"";

pub(super) struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
    request: Vec<u8>,
    /// The first answers are read by a whole parser too: the quick one must find the same.
    checked: bool,
}

impl Client {
    pub(super) fn connect(port: u16) -> Result<Client> {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("nobody listens on port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        Ok(Client { stream: BufReader::new(stream), port, request: Vec::new(), checked: false })
    }

    /// The body of the answer.
    fn call(&mut self, action: &str, body: &str) -> Result<String> {
        self.request.clear();
        write!(
            self.request,
            "POST / HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: application/x-amz-json-1.0\r\n\
             x-amz-target: AmazonSQS.{action}\r\ncontent-length: {}\r\n\r\n{body}",
            self.port,
            body.len(),
        )?;
        self.stream.get_mut().write_all(&self.request)?;
        let answer = Message::read(&mut self.stream, false)?.with_context(|| format!("{action}: closed"))?;
        let text = String::from_utf8(answer.body).with_context(|| format!("{action}: the answer is no text"))?;
        ensure!(answer.start.starts_with("HTTP/1.1 200"), "{action}: {} {text}", answer.start);
        Ok(text)
    }

    /// The URL of a new queue.
    pub(super) fn create(&mut self, name: &str) -> Result<String> {
        let answer: Value = serde_json::from_str(&self.call("CreateQueue", &format!("{{\"QueueName\":\"{name}\"}}"))?)?;
        Ok(answer["QueueUrl"].as_str().context("CreateQueue: no URL")?.to_owned())
    }

    /// Sends `many` messages in one request; returns when all are confirmed.
    pub(super) fn send(&mut self, url: &str, bodies: &[String]) -> Result<()> {
        let entries =
            bodies.iter().enumerate().map(|(n, body)| format!("{{\"Id\":\"{n}\",\"MessageBody\":\"{body}\"}}"));
        self.batch("SendMessageBatch", url, entries, bodies.len())
    }

    /// Receipts of at most `many` messages; none when there were none for [`RECEIVE_WAIT_SECONDS`].
    pub(super) fn receive(&mut self, url: &str, many: usize) -> Result<Vec<String>> {
        let body = format!(
            "{{\"QueueUrl\":\"{url}\",\"MaxNumberOfMessages\":{many},\"WaitTimeSeconds\":{RECEIVE_WAIT_SECONDS}}}"
        );
        let answer = self.call("ReceiveMessage", &body)?;
        let found = receipts(&answer)?;
        if !self.checked && !found.is_empty() {
            check(&answer, &found)?;
            self.checked = true;
        }
        Ok(found)
    }

    pub(super) fn delete(&mut self, url: &str, receipts: &[String]) -> Result<()> {
        let entry = |(n, receipt): (usize, &String)| format!("{{\"Id\":\"{n}\",\"ReceiptHandle\":\"{receipt}\"}}");
        self.batch("DeleteMessageBatch", url, receipts.iter().enumerate().map(entry), receipts.len())
    }

    fn batch(&mut self, action: &str, url: &str, entries: impl Iterator<Item = String>, many: usize) -> Result<()> {
        let body = format!("{{\"QueueUrl\":\"{url}\",\"Entries\":[{}]}}", entries.collect::<Vec<_>>().join(","));
        let answer = self.call(action, &body)?;
        let (told, failed) = (answer.matches("\"Id\":").count(), answer.contains("\"Failed\":[{"));
        ensure!(told == many && !failed, "{action}: {answer}");
        Ok(())
    }
}

/// Bodies are hexadecimal and handles base64: neither holds a quotation mark or what stands before a handle.
fn receipts(answer: &str) -> Result<Vec<String>> {
    let found = answer.split(RECEIPT).skip(1).map(|rest| Some(rest.split_once('"')?.0.to_owned()));
    found.collect::<Option<Vec<_>>>().with_context(|| format!("ReceiveMessage: {answer}"))
}

fn check(answer: &str, found: &[String]) -> Result<()> {
    let value: Value = serde_json::from_str(answer).context("ReceiveMessage: no JSON")?;
    let messages = value["Messages"].as_array().context("ReceiveMessage: no messages")?;
    let told: Vec<_> = messages.iter().map(|message| message["ReceiptHandle"].as_str().unwrap_or_default()).collect();
    ensure!(told == found, "the receipts were not read as they are: {answer}");
    let whole = messages.iter().all(|message| message["Body"].as_str().is_some_and(|body| body.len() >= BODY_BYTES));
    ensure!(whole, "a body was cut: {answer}");
    Ok(())
}

/// Does `case` for `length`, on the queue at `url`. What was begun is brought to its end.
pub(super) fn drive(port: u16, url: &str, case: Case, length: Duration, stop: &AtomicBool) -> Result<Count> {
    let mut clients = Vec::new();
    for size in case.batches() {
        clients.push((Client::connect(port)?, size));
    }
    let began = Instant::now();
    let (messages, number) = (AtomicU64::new(0), AtomicU64::new(1));
    let cycles = &|mut client: Client, size: u32| -> Result<()> {
        while began.elapsed() < length && !stop.load(Ordering::Relaxed) {
            let first = number.fetch_add(u64::from(size), Ordering::Relaxed);
            let bodies: Vec<String> = (first..first + u64::from(size)).map(body).collect();
            client.send(url, &bodies)?;
            if case.work == Work::Life {
                finish(&mut client, url, size as usize)?;
            }
            messages.fetch_add(u64::from(size), Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            clients.into_iter().map(|(client, size)| scope.spawn(move || cycles(client, size))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
    })?;
    Ok(Count { messages: messages.into_inner(), took: began.elapsed() })
}

/// Receives as many messages as were sent, whoever sent them, and deletes them.
fn finish(client: &mut Client, url: &str, many: usize) -> Result<()> {
    let until = Instant::now() + RECEIVED_WITHIN;
    let mut held = Vec::with_capacity(many);
    while held.len() < many {
        held.extend(client.receive(url, many - held.len())?);
        if Instant::now() > until {
            bail!("{} of {many} messages were received in {} s", held.len(), RECEIVED_WITHIN.as_secs());
        }
    }
    client.delete(url, &held)
}

/// Sends `many` messages of `bytes` as fast as they are taken.
pub(super) fn fill(port: u16, url: &str, many: u64, bytes: usize, stop: &AtomicBool) -> Result<()> {
    const CLIENTS: usize = 32;
    let next = AtomicU64::new(0);
    let send_all = || -> Result<()> {
        let mut client = Client::connect(port)?;
        loop {
            let first = next.fetch_add(u64::from(BATCH), Ordering::Relaxed);
            if first >= many || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let last = many.min(first + u64::from(BATCH));
            let bodies: Vec<String> = (first..last).map(|n| body(n).repeat(bytes.div_ceil(BODY_BYTES))).collect();
            client.send(url, &bodies)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(send_all)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_read_as_a_parser_reads_them() {
        let body = body(7);
        let answer = format!(
            r#"{{"Messages":[{{"Body":"{body}","MessageId":"1","ReceiptHandle":"aB+/=="}},{{"ReceiptHandle":"c-_","Body":"{body}"}}]}}"#
        );
        let found = receipts(&answer).expect("two receipts");
        assert_eq!(found, ["aB+/==", "c-_"]);
        check(&answer, &found).expect("the same");
        check(&answer, &found[..1]).expect_err("one is missing");
        assert_eq!(receipts("{}").expect("none"), Vec::<String>::new());
        receipts("{\"Messages\":[{\"ReceiptHandle\":\"cut").expect_err("cut");
    }
}
