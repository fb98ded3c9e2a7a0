//! Just enough of AMQP 0-9-1 for one publisher and one consumer: frames, the handshake, a few methods.
//! <https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Frame types.
pub(super) const METHOD: u8 = 1;
const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;

/// Larger than any frame here; smaller than what RabbitMQ offers.
const FRAME_BYTES_MAX: u32 = 128 * 1024;

/// The only channel of each connection.
const CHANNEL: u16 = 1;

/// A queue with a log takes a moment to be made.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Class and method, as the specification numbers them.
pub(super) type Name = (u16, u16);

const START: Name = (10, 10);
const START_OK: Name = (10, 11);
const TUNE: Name = (10, 30);
const TUNE_OK: Name = (10, 31);
const OPEN: Name = (10, 40);
const OPEN_OK: Name = (10, 41);
const CONNECTION_CLOSE: Name = (10, 50);
const CHANNEL_OPEN: Name = (20, 10);
const CHANNEL_OPEN_OK: Name = (20, 11);
const CHANNEL_CLOSE: Name = (20, 40);
const QUEUE_DECLARE: Name = (50, 10);
const QUEUE_DECLARE_OK: Name = (50, 11);
const QUEUE_DELETE: Name = (50, 40);
const QUEUE_DELETE_OK: Name = (50, 41);
const QOS: Name = (60, 10);
const QOS_OK: Name = (60, 11);
const CONSUME: Name = (60, 20);
const CONSUME_OK: Name = (60, 21);
const PUBLISH: Name = (60, 40);
pub(super) const DELIVER: Name = (60, 60);
pub(super) const ACK: Name = (60, 80);
const CONFIRM_SELECT: Name = (85, 10);
const CONFIRM_SELECT_OK: Name = (85, 11);

/// A method with its arguments.
struct Method(Vec<u8>);

impl Method {
    fn new((class, method): Name) -> Method {
        Method(Vec::new()).short(class).short(method)
    }

    fn octet(mut self, value: u8) -> Method {
        self.0.push(value);
        self
    }

    fn short(mut self, value: u16) -> Method {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(mut self, value: u32) -> Method {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long_long(mut self, value: u64) -> Method {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// At most 255 bytes; ours are names.
    fn short_text(mut self, text: &str) -> Method {
        self.0.push(text.len().min(255) as u8);
        self.0.extend(text.bytes().take(255));
        self
    }

    fn long_text(self, text: &str) -> Method {
        let mut method = self.long(text.len() as u32);
        method.0.extend(text.bytes());
        method
    }

    /// Keys with texts.
    fn table(self, entries: &[(&str, &str)]) -> Method {
        let inner = entries
            .iter()
            .fold(Method(Vec::new()), |table, (key, value)| table.short_text(key).octet(b'S').long_text(value));
        let mut method = self.long(inner.0.len() as u32);
        method.0.extend(inner.0);
        method
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(FRAME_END);
}

/// Where frames come from.
pub(super) struct Reader {
    stream: BufReader<TcpStream>,
    payload: Vec<u8>,
}

impl Reader {
    /// The next frame: its type and payload.
    pub(super) fn next(&mut self) -> Result<(u8, &[u8])> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).context("the connection ended")?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        ensure!(size <= FRAME_BYTES_MAX, "a frame of {size} bytes");
        self.payload.resize(size as usize + 1, 0);
        self.stream.read_exact(&mut self.payload).context("the connection ended in a frame")?;
        ensure!(self.payload.pop() == Some(FRAME_END), "a frame without its end");
        Ok((head[0], &self.payload))
    }

    /// The next method of this name; what the server closes with is an error.
    fn expect(&mut self, name: Name) -> Result<()> {
        let (kind, payload) = self.next()?;
        ensure!(kind == METHOD, "a frame of type {kind} instead of method {name:?}");
        refuse_close(payload)?;
        ensure!(name_of(payload) == Some(name), "method {:?} instead of {name:?}", name_of(payload));
        Ok(())
    }

    /// Nothing more has arrived: time to answer.
    pub(super) fn is_drained(&self) -> bool {
        self.stream.buffer().is_empty()
    }
}

pub(super) fn name_of(payload: &[u8]) -> Option<Name> {
    let pair = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    Some((pair(0)?, pair(2)?))
}

/// Delivery tag, and whether it stands for all before it too; of an `ack`.
pub(super) fn acknowledged(payload: &[u8]) -> Option<(u64, bool)> {
    let tag = payload.get(4..12)?.try_into().ok()?;
    Some((u64::from_be_bytes(tag), payload.get(12)? & 1 == 1))
}

/// Delivery tag of a `deliver`: behind the name of the consumer.
pub(super) fn delivered(payload: &[u8]) -> Option<u64> {
    let at = 5 + usize::from(*payload.get(4)?);
    Some(u64::from_be_bytes(payload.get(at..at + 8)?.try_into().ok()?))
}

pub(super) fn refuse_close(payload: &[u8]) -> Result<()> {
    if matches!(name_of(payload), Some(CONNECTION_CLOSE | CHANNEL_CLOSE)) {
        bail!("the server closed: {}", String::from_utf8_lossy(payload.get(7..).unwrap_or_default()));
    }
    Ok(())
}

/// Where frames go to: gathered until they are flushed.
pub(super) struct Writer {
    stream: TcpStream,
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).context("the connection ended")?;
        self.out.clear();
        Ok(())
    }

    /// A persistent message to the queue of this name.
    pub(super) fn publish(&mut self, queue: &str, body: &[u8]) {
        const DELIVERY_MODE: u16 = 1 << 12;
        const PERSISTENT: u8 = 2;
        let method = Method::new(PUBLISH).short(0).short_text("").short_text(queue).octet(0);
        let head = Method(Vec::new()).short(PUBLISH.0).short(0).long_long(body.len() as u64);
        let head = head.short(DELIVERY_MODE).octet(PERSISTENT);
        frame(&mut self.out, METHOD, CHANNEL, &method.0);
        frame(&mut self.out, HEADER, CHANNEL, &head.0);
        frame(&mut self.out, BODY, CHANNEL, body);
    }

    /// Everything up to this delivery.
    pub(super) fn acknowledge(&mut self, tag: u64) {
        let method = Method::new(ACK).long_long(tag).octet(1);
        frame(&mut self.out, METHOD, CHANNEL, &method.0);
    }

    fn say(&mut self, channel: u16, method: Method) -> Result<()> {
        frame(&mut self.out, METHOD, channel, &method.0);
        self.flush()
    }
}

/// A connection with one channel.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

impl Connection {
    /// As the user that RabbitMQ allows on loopback.
    pub(super) fn open(port: u16) -> Result<Connection> {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("nobody listens on port {port}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let reader = Reader { stream: BufReader::with_capacity(64 * 1024, stream.try_clone()?), payload: Vec::new() };
        let mut connection = Connection { reader, writer: Writer { stream, out: b"AMQP\0\0\x09\x01".to_vec() } };
        connection.writer.flush()?;
        connection.reader.expect(START)?;
        let login =
            Method::new(START_OK).table(&[]).short_text("PLAIN").long_text("\0guest\0guest").short_text("en_US");
        connection.writer.say(0, login)?;
        connection.reader.expect(TUNE)?;
        // No heartbeats: a measurement is short.
        connection.writer.say(0, Method::new(TUNE_OK).short(CHANNEL).long(FRAME_BYTES_MAX).short(0))?;
        connection.writer.say(0, Method::new(OPEN).short_text("/").short_text("").octet(0))?;
        connection.reader.expect(OPEN_OK)?;
        connection.call(Method::new(CHANNEL_OPEN).short_text(""), CHANNEL_OPEN_OK)?;
        Ok(connection)
    }

    fn call(&mut self, method: Method, answer: Name) -> Result<()> {
        self.writer.say(CHANNEL, method)?;
        self.reader.expect(answer)
    }

    /// A durable queue, replicated by a log of its own that is synced before a confirm.
    pub(super) fn declare_quorum(&mut self, queue: &str) -> Result<()> {
        const DURABLE: u8 = 1 << 1;
        let method = Method::new(QUEUE_DECLARE).short(0).short_text(queue).octet(DURABLE);
        self.call(method.table(&[("x-queue-type", "quorum")]), QUEUE_DECLARE_OK)
    }

    pub(super) fn delete(&mut self, queue: &str) -> Result<()> {
        self.call(Method::new(QUEUE_DELETE).short(0).short_text(queue).octet(0), QUEUE_DELETE_OK)
    }

    pub(super) fn confirm(&mut self) -> Result<()> {
        self.call(Method::new(CONFIRM_SELECT).octet(0), CONFIRM_SELECT_OK)
    }

    /// With `prefetch` deliveries at once that are not acknowledged.
    pub(super) fn consume(&mut self, queue: &str, prefetch: u16) -> Result<()> {
        self.call(Method::new(QOS).long(0).short(prefetch).octet(0), QOS_OK)?;
        let method = Method::new(CONSUME).short(0).short_text(queue).short_text("bench").octet(0).table(&[]);
        self.call(method, CONSUME_OK)
    }

    /// Ends a reader that waits in another thread.
    pub(super) fn closer(&self) -> Result<Closer> {
        Ok(Closer(self.writer.stream.try_clone()?))
    }
}

/// Closes the connection when it ends.
pub(super) struct Closer(TcpStream);

impl Drop for Closer {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_written_as_the_specification_says() {
        let method = Method::new(QUEUE_DECLARE).short(0).short_text("q").octet(2).table(&[("k", "v")]);
        let expected = [0, 50, 0, 10, 0, 0, 1, b'q', 2, 0, 0, 0, 8, 1, b'k', b'S', 0, 0, 0, 1, b'v'];
        assert_eq!(method.0, expected);
        let mut out = Vec::new();
        frame(&mut out, METHOD, 1, &[7, 8]);
        assert_eq!(out, [1, 0, 1, 0, 0, 0, 2, 7, 8, 0xCE]);
    }

    #[test]
    fn tags_are_read() {
        let ack = Method::new(ACK).long_long(260).octet(1).0;
        assert_eq!((name_of(&ack), acknowledged(&ack)), (Some(ACK), Some((260, true))));
        let deliver = Method::new(DELIVER).short_text("bench").long_long(9).octet(0).short_text("").short_text("q").0;
        assert_eq!(delivered(&deliver), Some(9));
        assert_eq!((name_of(&[1]), acknowledged(&[]), delivered(&[0; 4])), (None, None, None));
        refuse_close(&Method::new(CHANNEL_CLOSE).short(404).short_text("NOT_FOUND").0).expect_err("closed");
    }
}
