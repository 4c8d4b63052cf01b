//! Connections on which nothing begins, or whose client does not take what it is sent, are given up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes that begin anything: the preface of HTTP/2, which has no timeout of its own.
const OPENING: usize = 24;

/// A stream that must begin, and whose writes must go on.
pub(super) struct Stalling<S> {
    inner: S,
    patience: Duration,
    /// Until enough has been read: when it is given up, and how much has been.
    opening: Option<(Pin<Box<Sleep>>, usize)>,
    /// Since a write waits: when it is given up.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Stalling<S> {
    pub(super) fn new(inner: S, patience: Duration, opening: Duration) -> Self {
        let opening = Some((Box::pin(tokio::time::sleep(opening)), 0));
        Self { inner, patience, opening, deadline: None }
    }

    /// The outcome of a write, or an error if it has waited for too long.
    fn watched<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.deadline = None;
            return outcome;
        }
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, into);
        let Some((deadline, read)) = &mut self.opening else { return outcome };
        *read += into.filled().len() - before;
        if *read >= OPENING {
            self.opening = None;
        } else if outcome.is_pending() {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watched(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.watched(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.watched(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watched(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_given_up() {
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Stalling::new(near, PATIENCE, PATIENCE);
        let began = Instant::now();
        let error = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_given_up_and_who_has_begun_may_pause() {
        for (said, ends) in [(0, true), (OPENING - 1, true), (OPENING, false)] {
            let (near, mut far) = tokio::io::duplex(64);
            let mut near = Stalling::new(near, PATIENCE, PATIENCE);
            far.write_all(&vec![b'x'; said]).await.unwrap();
            let mut read = vec![0; said + 1];
            let reading = tokio::time::timeout(PATIENCE * 3, near.read_exact(&mut read)).await;
            assert_eq!(matches!(reading, Ok(Err(_))), ends, "{said} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_not() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Stalling::new(near, PATIENCE, PATIENCE);
        let writing = tokio::spawn(async move { near.write_all(&[1; 64]).await });
        let mut byte = [0];
        for _ in 0..64 {
            tokio::time::sleep(PATIENCE / 2).await;
            far.read_exact(&mut byte).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }
}
