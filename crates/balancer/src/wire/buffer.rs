//! A receive buffer: filled at the end, consumed at the front.

use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::core::Core;

/// Holds common heads and small bodies; reads stay below it, which spares the second read that finds nothing.
pub(crate) const SIZE_BYTES: usize = 16 << 10;

/// Buffers kept per core for the next user.
const SPARE_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Whether a read finds room without growing.
    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.bytes.len()
    }

    pub(crate) fn grow(&mut self, size: usize) {
        if size > self.bytes.len() {
            self.bytes.resize(size, 0);
        }
    }

    fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// One read into the free room; `Ok(0)` is the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(self.room());
        ready!(Pin::new(stream).poll_read(cx, &mut into))?;
        let count = into.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

/// Per core: an idle connection holds no buffer, so that ten thousand of them stay small.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<Buffer>);

impl Spares {
    pub(crate) fn take(&mut self) -> Buffer {
        self.0.pop().unwrap_or_else(|| Buffer { bytes: vec![0; SIZE_BYTES], start: 0, end: 0 })
    }

    pub(crate) fn give(&mut self, mut buffer: Buffer) {
        if buffer.bytes.len() == SIZE_BYTES && self.0.len() < SPARE_MAX {
            (buffer.start, buffer.end) = (0, 0);
            self.0.push(buffer);
        }
    }
}

/// A buffer on loan from its core.
#[derive(Debug)]
pub(crate) struct Lease {
    buffer: Buffer,
    core: Rc<Core>,
}

impl Lease {
    pub(crate) fn take(core: &Rc<Core>) -> Lease {
        Lease { buffer: core.spares.borrow_mut().take(), core: core.clone() }
    }
}

impl Deref for Lease {
    type Target = Buffer;
    fn deref(&self) -> &Buffer {
        &self.buffer
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.core.spares.borrow_mut().give(std::mem::take(&mut self.buffer));
    }
}
