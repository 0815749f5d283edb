//! `GET /ledger`: the file, read again and streamed.
//!
//! Items are not kept in memory: a year of orders would be larger than the rest of the process. An
//! authorization is shown with the state it has now, so that only `authorized` means money held.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::books::{Operation, Record};
use super::ledger::Ledger;
use super::routes::{Body, decode_key, problem, with_body};

/// How much is read ahead of the client, in pieces of [`PIECE_BYTES`].
const PIECES_AHEAD: usize = 4;

/// The size of a piece of the answer: large enough to make system calls cheap.
const PIECE_BYTES: usize = 64 * 1024;

/// What is asked for. A cursor is a position in the file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    key: Option<String>,
    order: Option<String>,
    limit: Option<u64>,
    cursor: u64,
}

impl Query {
    fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode_key(value)
                .ok_or_else(|| format!("`{name}` is not percent-encoded UTF-8"))?
                .into_owned();
            let number = || value.parse().map_err(|_| format!("`{name}` must be a number"));
            match name {
                "limit" => query.limit = Some(number()?).filter(|&limit| limit > 0),
                "cursor" => query.cursor = number()?,
                "key" => query.key = Some(value),
                "order" => query.order = Some(value),
                other => {
                    return Err(format!("unknown parameter `{other}`: key, order, limit, cursor"));
                }
            }
        }
        Ok(query)
    }

    fn wants(&self, record: &Record<'_>) -> bool {
        let is = |wanted: &Option<String>, text: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| text == Some(wanted))
        };
        let by_key = is(&self.key, Some(&record.idempotency_key))
            || (self.key.is_some() && is(&self.key, record.authorization.as_deref()));
        record.operation != Operation::Settle
            && by_key
            && is(&self.order, record.order_reference.as_deref())
    }
}

/// Streams what the query asks for, as far as it is durable now.
pub(super) fn answer(ledger: &Arc<Ledger>, query: &str) -> Response<Body> {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(detail) => {
            return problem(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", detail);
        }
    };
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let ledger = Arc::clone(ledger);
    drop(tokio::task::spawn_blocking(move || {
        if let Err(error) = list(&ledger, &query, &sender) {
            // The client sees a broken body, never a short list that looks whole.
            drop(sender.blocking_send(Err(error)));
        }
    }));
    let frames = stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    with_body(StatusCode::OK, StreamBody::new(frames).boxed_unsync())
}

type Pieces = mpsc::Sender<std::io::Result<Bytes>>;

fn list(ledger: &Ledger, query: &Query, pieces: &Pieces) -> std::io::Result<()> {
    let end = ledger.durable_bytes();
    let mut position = query.cursor.min(end);
    let mut file = File::open(ledger.path())?;
    file.seek(SeekFrom::Start(position))?;
    let mut reader = BufReader::with_capacity(PIECE_BYTES, file.take(end - position));
    let mut out = br#"{"items":["#.to_vec();
    let (mut line, mut listed) = (Vec::new(), 0);
    let mut next_cursor = None;
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let mut record: Record<'_> = serde_json::from_slice(&line)?;
        if query.wants(&record) {
            if query.limit == Some(listed) {
                next_cursor = Some(position.to_string());
                break;
            }
            if record.operation == Operation::Authorize {
                let now = ledger.read(|books| {
                    books.account(&record.idempotency_key).map(|account| account.state)
                });
                record.state = now.unwrap_or(record.state);
            }
            if listed > 0 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, &record)?;
            listed += 1;
        }
        position += read as u64;
        if out.len() >= PIECE_BYTES && pieces.blocking_send(Ok(out.split_off(0).into())).is_err() {
            return Ok(()); // The client has gone.
        }
    }
    out.extend_from_slice(br#"],"next_cursor":"#);
    serde_json::to_writer(&mut out, &next_cursor)?;
    out.push(b'}');
    drop(pieces.blocking_send(Ok(out.into())));
    Ok(())
}
