//! The HTTP server: hyper, with every wait and every size bounded.
//!
//! What a client can hold up is bounded in five ways: the head of a request and the pause between two
//! ([`Limits::head_read`], [`Limits::idle`]), the body ([`super::json::BodyLimits`]), the reading of an answer
//! ([`Limits::write_stall`]), the size of a head, and the number of connections. Ambiguous requests
//! are refused ([`super::framing`]). A connection over the cap gets a 503 at once, so that the load
//! balancer turns elsewhere instead of waiting.
//!
//! Shutting down: the listener closes first, requests that have begun are answered, idle connections
//! are closed, and what is left after the deadline is dropped.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::runtime::TaskSet;

use super::context::Context;
use super::framing::{Ambiguity, Waits, Watched};
use super::front_door::{FrontDoor, TraceId, X_REGION};
use super::problem::{Code, Problem};

/// The bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections. Each costs some 20 KiB; load balancers keep a few hundred.
    pub connections: usize,
    /// From the first byte of a head to its end: milliseconds for any client that means it.
    pub head_read: Duration,
    /// From the start of a connection, or the end of the answer before, to the end of the next head:
    /// longer than load balancers keep idle connections, so that they close first and never send a
    /// request into a connection that is going away.
    pub idle: Duration,
    /// The largest head, in bytes: a token of 8 KiB and as much again.
    pub head_bytes: usize,
    /// How long a client may leave our answer unread.
    pub write_stall: Duration,
    /// How long requests that have begun may take after a stop was asked for. What takes longer, such as a
    /// long `Prefer: wait`, is cut off; the order goes on, and the client asks again with its key.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            head_read: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            head_bytes: 16 * 1024,
            write_stall: Duration::from_secs(20),
            drain: Duration::from_secs(35),
        }
    }
}

/// The most headers of a request: twice what browsers and load balancers send.
const HEADERS_MAX: usize = 64;

/// How long to rest when the system can't give a connection (out of file descriptors): closing ones need a moment.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long the refusal of a connection over the cap may take to write.
const REFUSAL_WRITE: Duration = Duration::from_secs(1);

/// Refusals written at once; beyond, connections are just closed.
const REFUSALS_MAX: usize = 64;

/// See [`serve`].
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// Serves until `stop`, then drains. Returns when nothing is left or the drain's deadline has passed.
pub async fn serve(
    listener: TcpListener,
    door: FrontDoor,
    limits: Limits,
    stop: CancellationToken,
) {
    let tasks = TaskSet::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let door = Arc::new(door);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let connection = connection(stream, Arc::clone(&door), limits, tasks.stopping());
            tasks.spawn("http connection", async move {
                connection.await;
                drop(slot);
            });
        } else {
            door.context().metrics.http_connections_refused.inc();
            if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                let refusal = refusal(door.context());
                tasks.spawn("http refusal", async move {
                    turn_away(stream, &refusal).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    // Every connection has the deadline itself; the margin is for the last of them to be dropped.
    if !tasks.shut_down(limits.drain + DRAIN_MARGIN).await {
        tracing::error!("connections are left after the drain's deadline");
    }
}

/// Serves one connection until it ends, or until its answer when the server stops.
async fn connection(
    stream: TcpStream,
    door: Arc<FrontDoor>,
    limits: Limits,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let open = Counted::new(&door);
    let stream = Watched::new(stream, Waits { head: limits.head_read, write: limits.write_stall });
    let ambiguity = stream.ambiguity();
    let service = service_fn(|request: Request<Incoming>| {
        let door = Arc::clone(&door);
        let ambiguity = ambiguity.clone();
        async move { Ok::<_, Infallible>(answer(&door, &ambiguity, request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(limits.head_bytes.max(8 * 1024))
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.drain, serving).await {
                Ok(result) => result,
                Err(_elapsed) => {
                    tracing::warn!("a request did not end within the drain's deadline; its connection is dropped");
                    Ok(())
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
    }
    drop(open);
}

async fn answer(door: &FrontDoor, ambiguity: &Ambiguity, request: Request<Incoming>) -> Response {
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    if ambiguity.found() {
        door.context().metrics.http_ambiguous_requests.inc();
        let problem = Problem::new(
            Code::MalformedRequest,
            "the request has both Content-Length and Transfer-Encoding; nothing was done",
        );
        return closing(door.refuse(request.headers(), &problem));
    }
    let response = door.answer(request.map(Body::new)).await;
    // The scanner of heads does not follow chunked bodies; and a body that was refused as too slow
    // or too large is still on its way.
    let unread = matches!(response.status().as_u16(), 408 | 413);
    if chunked || unread { closing(response) } else { response }
}

fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What a connection over the cap is told, as bytes: nobody reads its request.
fn refusal(context: &Context) -> String {
    let trace = TraceId::of(&HeaderMap::new(), context.ids.as_ref());
    let body = concat!(
        r#"{"type":"/docs#overloaded","title":"Too busy","status":503,"#,
        r#""detail":"too many connections; try again","code":"overloaded","trace_id":""#
    );
    let body = format!("{body}{trace}\"}}");
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
         {X_REGION}: {}\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        context.region,
        body.len()
    )
}

async fn turn_away(mut stream: TcpStream, refusal: &str) {
    let write = async {
        stream.write_all(refusal.as_bytes()).await?;
        stream.shutdown().await
    };
    if !matches!(tokio::time::timeout(REFUSAL_WRITE, write).await, Ok(Ok(()))) {
        tracing::debug!("a connection over the cap did not take its refusal");
    }
}

/// Counts one open connection until it is dropped.
struct Counted(FrontDoor);

impl Counted {
    fn new(door: &FrontDoor) -> Self {
        door.context().metrics.http_connections.inc();
        Self(door.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.context().metrics.http_connections.dec();
    }
}

#[cfg(test)]
mod tests;
