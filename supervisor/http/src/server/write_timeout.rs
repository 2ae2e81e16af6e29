//! A stream with a timeout for writes. It closes in a way that lets the client still read its last response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client that has not sent its whole request may pause after its response was written. No event tells whether the
/// client will send more.
const QUIET_TIME: Duration = Duration::from_millis(250);

/// A stream whose writes fail when they make no progress for `timeout`.
#[derive(Debug)]
pub(super) struct WriteTimeout<S> {
    stream: S,
    timeout: Duration,
    /// Runs while a write waits.
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Limits the time in which the rest of a request is read and discarded, after the whole response was written.
    discard_timer: Option<Pin<Box<Sleep>>>,
    /// Limits the wait for the first bytes of the rest of a request, after the whole response was written.
    quiet_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    pub(super) fn new(stream: S, timeout: Duration) -> Self {
        Self { stream, timeout, write_timer: None, discard_timer: None, quiet_timer: None }
    }

    /// Returns the result of a write if there is one, and an error if the write has waited for too long.
    fn with_timeout<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_timer = None;
            return result;
        }
        let timeout = self.timeout;
        ready!(self.write_timer.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its response")))
    }
}

impl<S: AsyncRead + Unpin> WriteTimeout<S> {
    /// Reads and discards what the client still sends after its response, for example the rest of a body that is too large.
    /// If a socket is closed with unread bytes, the kernel resets the connection, and the client may see the reset instead
    /// of the response.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let timeout = self.timeout;
                    let timer = self.discard_timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
                    // The timer is polled here, too: if a client sends without a pause, the `Pending` below is never reached.
                    if timer.as_mut().poll(context).is_ready() {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let timer = match &mut self.discard_timer {
                        Some(timer) => timer,
                        None => self.quiet_timer.get_or_insert_with(|| Box::pin(sleep(QUIET_TIME))),
                    };
                    return timer.as_mut().poll(context);
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.with_timeout(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.with_timeout(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.with_timeout(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        ready!(self.with_timeout(result, cx))?;
        self.poll_discard(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_write_without_progress_fails_and_progress_restarts_the_timeout() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut stream = WriteTimeout::new(ours, Duration::from_millis(200));
        stream.write_all(&[0; 16]).await.unwrap();
        let mut buffer = [0; 16];
        for _ in 0..4 {
            assert!(stream.write(&[0; 16]).now_or_never().is_none(), "the stream is full");
            assert!(stream.write_timer.is_some(), "the timeout runs");
            theirs.read_exact(&mut buffer).await.unwrap();
            stream.write_all(&[0; 16]).await.unwrap();
            assert!(stream.write_timer.is_none(), "the next write has the whole time again");
        }
        let error = stream.write_all(&[0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
