//! One direction of a message body, from socket to socket, as fast as the slower of the two.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::wire::body::Body;
use crate::wire::buffer::Buffer;

/// Bodies up to this size are held, so that the request can be sent again.
pub(crate) const HOLD_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Pump {
    pub(crate) body: Body,
    /// Bytes at the front of the buffer that belong to the body and are not consumed.
    pending: usize,
    /// Of these, how many this receiver has.
    written: usize,
    /// All that was consumed, while it can still be sent again.
    held: Option<Vec<u8>>,
    /// Content without framing, for a receiver that knows no chunks.
    plain: Option<Vec<u8>>,
    /// Raw bytes taken from the sender.
    pub(crate) count: u64,
    pub(crate) limit: u64,
    /// Grows with each byte moved; who watches it knows whether anything happens.
    pub(crate) moved: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The sender closed or failed before the end of the body.
    Sender,
    Receiver,
    Malformed,
    TooLarge,
}

impl Pump {
    pub(crate) fn new(body: Body) -> Pump {
        Pump { body, pending: 0, written: 0, held: None, plain: None, count: 0, limit: u64::MAX, moved: 0 }
    }

    pub(crate) fn holding(body: Body, limit: u64) -> Pump {
        Pump { held: Some(Vec::new()), limit, ..Pump::new(body) }
    }

    pub(crate) fn without_framing(mut self) -> Pump {
        self.plain = Some(Vec::new());
        self
    }

    pub(crate) fn is_done(&self) -> bool {
        self.body.is_done() && self.pending == 0 && self.plain.as_ref().is_none_or(Vec::is_empty)
    }

    /// Nothing of the body is lost: it can be sent to another receiver from the start.
    pub(crate) fn is_replayable(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn held(&self) -> &[u8] {
        self.held.as_deref().unwrap_or_default()
    }

    /// What was taken from the sender so far, out of the buffer too; nothing of it is left to be passed on.
    pub(crate) fn gathered(&mut self, buffer: &mut Buffer) -> Vec<u8> {
        let mut bytes = self.held.take().unwrap_or_default();
        bytes.extend_from_slice(&buffer.filled()[..self.pending]);
        buffer.consume(self.pending);
        (self.pending, self.written) = (0, 0);
        bytes
    }

    /// A new receiver got [`Pump::held`]; it gets the rest from here.
    pub(crate) fn restart(&mut self) {
        self.written = 0;
    }

    /// Takes what the buffer has of the body into `out`, for a first write together with the head.
    pub(crate) fn prime(&mut self, buffer: &mut Buffer, out: &mut Vec<u8>) -> Result<(), Broken> {
        if buffer.is_empty() {
            return Ok(());
        }
        let count = match &mut self.plain {
            Some(_) => self.body.take(buffer.filled(), Some(out)),
            None => self.body.take(buffer.filled(), None),
        };
        let count = count.map_err(|_| Broken::Malformed)?;
        if self.plain.is_none() {
            out.extend_from_slice(&buffer.filled()[..count]);
        }
        buffer.consume(count);
        self.count += count as u64;
        Ok(())
    }

    /// Moves bytes until the body is done or one side is not ready.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_write(cx, buffer, to))?;
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            if buffer.is_empty() {
                match ready!(buffer.poll_fill(cx, from)) {
                    Ok(0) if self.body == Body::Close => {
                        self.body = Body::Empty;
                        return Poll::Ready(Ok(()));
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Sender)),
                    Ok(_) => {}
                }
            }
            self.accept(buffer)?;
        }
    }

    fn accept(&mut self, buffer: &mut Buffer) -> Result<(), Broken> {
        let count = self.body.take(buffer.filled(), self.plain.as_mut()).map_err(|_| Broken::Malformed)?;
        self.count += count as u64;
        if self.count > self.limit {
            return Err(Broken::TooLarge);
        }
        (self.pending, self.written) = (count, 0);
        if self.plain.is_some() {
            buffer.consume(count);
            self.pending = 0;
        }
        Ok(())
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
        to: &mut TcpStream,
    ) -> Poll<Result<(), Broken>> {
        if let Some(plain) = self.plain.as_mut().filter(|p| !p.is_empty()) {
            while self.written < plain.len() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &plain[self.written..])).unwrap_or(0);
                if count == 0 {
                    return Poll::Ready(Err(Broken::Receiver));
                }
                self.written += count;
                self.moved += count as u64;
            }
            plain.clear();
            self.written = 0;
        }
        while self.written < self.pending {
            let bytes = &buffer.filled()[self.written..self.pending];
            let count = ready!(Pin::new(&mut *to).poll_write(cx, bytes)).unwrap_or(0);
            if count == 0 {
                return Poll::Ready(Err(Broken::Receiver));
            }
            self.written += count;
            self.moved += count as u64;
        }
        self.consume(buffer);
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, buffer: &mut Buffer) {
        if self.pending == 0 {
            return;
        }
        if let Some(held) = self.held.take() {
            let mut held = held;
            if held.len() + self.pending <= HOLD_BYTES_MAX {
                held.extend_from_slice(&buffer.filled()[..self.pending]);
                self.held = Some(held);
            }
        }
        buffer.consume(self.pending);
        (self.pending, self.written) = (0, 0);
    }
}
