//! Watches request heads go by and remembers when one is ambiguous.
//!
//! A request with both `Content-Length` and `Transfer-Encoding` can be read as two different
//! requests by two programs in a row (request smuggling); RFC 9112 §6.1 lets a server refuse it.
//! hyper drops one of the two headers before anybody can see it, so the stream itself is watched:
//! a scanner follows the heads, skips bodies of known length, and stops for good at a chunked body,
//! because the front door closes the connection after one. Where the scanner and hyper could read a
//! head differently, hyper refuses the head (folded lines, white space before the colon, several
//! lengths).
//!
//! The same wrapper bounds two waits that hyper doesn't tell apart or know: from the first byte of a
//! head to its end (hyper's own time-out also covers the pause between two requests, which may be
//! long), and for a client that leaves an answer unread.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The names looked for; a longer one is another header.
const NAME_BYTES_MAX: usize = "transfer-encoding".len();

/// Says whether a request on this connection was ambiguous. Sticky: the connection is not to be used any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Ambiguity(Arc<AtomicBool>);

impl Ambiguity {
    /// Whether any head so far had both headers.
    pub(super) fn found(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Follows the heads of one connection.
#[derive(Debug)]
struct Scanner {
    state: State,
    name: [u8; NAME_BYTES_MAX],
    name_length: usize,
    line_is_empty: bool,
    first_line: bool,
    content_length: Option<u64>,
    transfer_encoding: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the name of a header, or in the request line.
    Name,
    /// In the value of `Content-Length`.
    Length,
    /// In any other value.
    Value,
    /// In a body with this many bytes left.
    Body(u64),
    /// Nothing more to look at: the connection closes after this request.
    Done,
}

impl Scanner {
    fn new() -> Self {
        Self {
            state: State::Name,
            name: [0; NAME_BYTES_MAX],
            name_length: 0,
            line_is_empty: true,
            first_line: true,
            content_length: None,
            transfer_encoding: false,
        }
    }

    /// Looks at the next bytes; says whether an ambiguous head ended in them.
    fn scan(&mut self, mut bytes: &[u8]) -> bool {
        let mut ambiguous = false;
        while !bytes.is_empty() {
            match self.state {
                State::Done => break,
                State::Body(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[here..];
                    let left = left - here as u64;
                    self.state = if left == 0 { State::Name } else { State::Body(left) };
                }
                State::Value => match bytes.iter().position(|&byte| byte == b'\n') {
                    Some(end) => {
                        bytes = &bytes[end + 1..];
                        self.begin_line();
                    }
                    None => break,
                },
                State::Name | State::Length => {
                    ambiguous |= self.byte(bytes[0]);
                    bytes = &bytes[1..];
                }
            }
        }
        ambiguous
    }

    /// Whether a head has begun and not ended.
    fn in_head(&self) -> bool {
        match self.state {
            State::Body(_) | State::Done => false,
            State::Name | State::Length | State::Value => !self.first_line || !self.line_is_empty,
        }
    }

    fn begin_line(&mut self) {
        self.state = State::Name;
        self.name_length = 0;
        self.line_is_empty = true;
        self.first_line = false;
    }

    fn byte(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (_, b'\r') => false,
            (State::Name, b'\n') if self.line_is_empty => self.end_head(),
            (_, b'\n') => {
                self.begin_line();
                false
            }
            (State::Name, b':') if !self.first_line => {
                self.state = match &self.name[..self.name_length.min(NAME_BYTES_MAX)] {
                    _ if self.name_length > NAME_BYTES_MAX => State::Value,
                    b"content-length" => {
                        self.content_length.get_or_insert(0);
                        State::Length
                    }
                    b"transfer-encoding" => {
                        self.transfer_encoding = true;
                        State::Value
                    }
                    _ => State::Value,
                };
                false
            }
            (State::Length, digit @ b'0'..=b'9') => {
                let length = self.content_length.unwrap_or(0);
                self.content_length =
                    Some(length.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
                false
            }
            (State::Name, byte) => {
                self.line_is_empty = false;
                if self.first_line {
                    // The request line has no name: skip to its end.
                    self.state = State::Value;
                } else {
                    if let Some(slot) = self.name.get_mut(self.name_length) {
                        *slot = byte.to_ascii_lowercase();
                    }
                    self.name_length += 1;
                }
                false
            }
            (State::Length | State::Value | State::Body(_) | State::Done, _) => false,
        }
    }

    fn end_head(&mut self) -> bool {
        if self.first_line {
            // Empty lines before a request are allowed.
            return false;
        }
        let ambiguous = self.transfer_encoding && self.content_length.is_some();
        let next = match self.content_length {
            _ if self.transfer_encoding => State::Done,
            Some(length) if length > 0 => State::Body(length),
            _ => State::Name,
        };
        *self = Self::new();
        self.state = next;
        ambiguous
    }
}

/// A stream whose incoming bytes are watched, and whose outgoing ones must get away in time.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    scanner: Scanner,
    ambiguity: Ambiguity,
    waits: Waits,
    /// Runs while a head is incomplete.
    head: Option<Pin<Box<Sleep>>>,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// How long a client may keep a connection waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// From the first byte of a head to its end.
    pub(super) head: Duration,
    /// For an answer to be read.
    pub(super) write: Duration,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, waits: Waits) -> Self {
        let ambiguity = Ambiguity::default();
        Self { stream, scanner: Scanner::new(), ambiguity, waits, head: None, stalled: None }
    }

    /// The finding, for whoever answers the requests of this stream.
    pub(super) fn ambiguity(&self) -> Ambiguity {
        self.ambiguity.clone()
    }

    /// Passes the result of a write on, and turns a wait that takes too long into an error.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let limit = self.waits.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        stalled.as_mut().poll(context).map(|()| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if this.scanner.scan(fresh) {
            this.ambiguity.0.store(true, Ordering::Relaxed);
        }
        if this.scanner.in_head() {
            let limit = this.waits.head;
            let head = this.head.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            if head.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
            }
        } else {
            this.head = None;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, result)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(context, result)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.in_time(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: &str = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    const NO_BODY: &str = "GET /transfer-encoding:/ HTTP/1.1\r\nHost: x\r\n\r\n";
    const CHUNKED: &str =
        "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    const BOTH: &str =
        "POST /a HTTP/1.1\r\nCONTENT-LENGTH: 5\r\nTransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    const BODY_LIKE_A_HEAD: &str = "POST /a HTTP/1.1\r\nContent-Length: 52\r\n\r\nX: 1\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n123";

    #[test]
    fn a_body_that_looks_like_a_head_is_a_body() {
        let (_, body) = BODY_LIKE_A_HEAD.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.len(), 52);
        assert!(!Scanner::new().scan(BODY_LIKE_A_HEAD.as_bytes()));
    }

    proptest! {
        /// However the bytes are cut into reads, the ambiguous request is found, and only it.
        #[test]
        fn found_however_it_arrives(
            before in prop::collection::vec(prop::sample::select(vec![PLAIN, NO_BODY, BODY_LIKE_A_HEAD, "\r\n"]), 0..4),
            last in prop::sample::select(vec![PLAIN, NO_BODY, CHUNKED, BOTH]),
            step in 1usize..40,
        ) {
            let text = before.concat() + last;
            let mut scanner = Scanner::new();
            let mut found = false;
            for piece in text.as_bytes().chunks(step) {
                found |= scanner.scan(piece);
            }
            prop_assert_eq!(found, last == BOTH);
        }
    }
}
