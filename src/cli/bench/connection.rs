//! One kept HTTP/1.1 connection, as little of it as a load generator needs.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The largest answer we read: an order with 200 lines has some 100 KiB.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How many headers an answer may have.
const HEADERS_MAX: usize = 32;

/// How long an answer may take: well beyond the 2 s a placement waits for its saga.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the answer is not the HTTP we expect: {0}")]
    Nonsense(&'static str),
}

impl Broken {
    /// A short name to count by.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "no_connection",
            Self::Io(_) => "connection_broke",
            Self::Timeout => "no_answer",
            Self::Nonsense(_) => "bad_answer",
        }
    }
}

/// A connection, or the intention of one: it is opened when needed and dropped when it fails.
pub(super) struct Connection {
    authority: String,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// The head of an answer, as far as we care.
struct Head {
    status: u16,
    length: usize,
    body_length: usize,
    close: bool,
}

impl Connection {
    pub(super) fn new(authority: &str) -> Self {
        Self { authority: authority.to_owned(), stream: None, buffer: Vec::with_capacity(8192) }
    }

    /// Sends a request's bytes; answers status and body. After an error the next call connects anew.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8]), Broken> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.authority).await?,
        };
        let exchanged = exchange_on(&mut stream, &mut self.buffer, request);
        let head = tokio::time::timeout(ANSWER_TIMEOUT, exchanged)
            .await
            .map_err(|_| Broken::Timeout)??;
        if !head.close {
            self.stream = Some(stream);
        }
        Ok((head.status, &self.buffer[head.length..head.length + head.body_length]))
    }
}

async fn connect(authority: &str) -> Result<TcpStream, Broken> {
    let stream = TcpStream::connect(authority).await.map_err(Broken::Connect)?;
    stream.set_nodelay(true).map_err(Broken::Connect)?;
    Ok(stream)
}

async fn exchange_on(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    request: &[u8],
) -> Result<Head, Broken> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(Broken::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(head) = parse(buffer)? {
            while buffer.len() < head.length + head.body_length {
                if stream.read_buf(buffer).await? == 0 {
                    return Err(Broken::Io(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
            return Ok(head);
        }
        if buffer.len() > ANSWER_BYTES_MAX {
            return Err(Broken::Nonsense("its head has no end"));
        }
    }
}

/// The head, if it is there already.
fn parse(buffer: &[u8]) -> Result<Option<Head>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(buffer).map_err(|_| Broken::Nonsense("its head"))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let status = response.code.ok_or(Broken::Nonsense("it has no status"))?;
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value)
    };
    let body_length = header("content-length")
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
        .filter(|&bytes| bytes <= ANSWER_BYTES_MAX)
        .ok_or(Broken::Nonsense("it has no content-length, or too large a one"))?;
    let close = header("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    Ok(Some(Head { status, length, body_length, close }))
}
