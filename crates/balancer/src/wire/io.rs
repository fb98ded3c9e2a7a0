//! Reads and writes that end with their limit.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::core::sweep::Watch;
use crate::wire::buffer::Buffer;

/// Why a read or write did not happen.
#[derive(Debug)]
pub(crate) enum End {
    Expired,
    Closed,
    Failed(#[allow(dead_code)] io::Error),
}

/// Bytes from the stream, at least one.
pub(crate) async fn fill(watch: &Watch, stream: &mut TcpStream, buffer: &mut Buffer) -> Result<usize, End> {
    poll_fn(|cx| poll_fill(cx, watch, stream, buffer)).await
}

pub(crate) fn poll_fill(
    cx: &mut Context<'_>,
    watch: &Watch,
    stream: &mut TcpStream,
    buffer: &mut Buffer,
) -> Poll<Result<usize, End>> {
    if watch.is_expired() {
        return Poll::Ready(Err(End::Expired));
    }
    match buffer.poll_fill(cx, stream) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(End::Closed)),
        Poll::Ready(Ok(count)) => Poll::Ready(Ok(count)),
        Poll::Ready(Err(e)) => Poll::Ready(Err(End::Failed(e))),
        Poll::Pending => {
            watch.park(cx);
            Poll::Pending
        }
    }
}

/// Writes all of `bytes`; `written` says how many the kernel took, also when it failed.
pub(crate) async fn write_all(
    watch: &Watch,
    stream: &mut TcpStream,
    bytes: &[u8],
    written: &mut usize,
) -> Result<(), End> {
    poll_fn(|cx| {
        while *written < bytes.len() {
            if watch.is_expired() {
                return Poll::Ready(Err(End::Expired));
            }
            match Pin::new(&mut *stream).poll_write(cx, &bytes[*written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Closed)),
                Poll::Ready(Ok(count)) => *written += count,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(End::Failed(e))),
                Poll::Pending => {
                    watch.park(cx);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// What `work` comes to; `None` when the limit passes first.
pub(crate) async fn within<T>(watch: &Watch, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if watch.is_expired() => Poll::Ready(None),
        Poll::Pending => {
            watch.park(cx);
            Poll::Pending
        }
    })
    .await
}

/// Waits for the limit only.
pub(crate) async fn expire(watch: &Watch) {
    poll_fn(|cx| {
        if watch.is_expired() {
            return Poll::Ready(());
        }
        watch.park(cx);
        Poll::Pending
    })
    .await;
}
