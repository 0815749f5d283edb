//! Asks a server on this machine how it is.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server on this machine that takes longer to answer about itself is not well.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// Of an answer no more is read: the status line, and what a region says of itself.
const ANSWER_BYTES: u64 = 16 * 1024;

/// What a witness says that is ready for all that it is there for.
pub(crate) const WITNESS: &str = "witness";

/// What `/readyz` says.
#[derive(Deserialize)]
struct Health {
    status: String,
}

/// The status code of `GET path`, and the answer.
async fn ask(port: u16, path: &str) -> Option<(u16, Vec<u8>)> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut answer).await.ok()?;
        let status = answer.split(|byte| *byte == b' ').nth(1)?;
        Some((std::str::from_utf8(status).ok()?.parse().ok()?, answer))
    };
    tokio::time::timeout(ANSWER_LIMIT, exchange).await.ok().flatten()
}

/// The status code of `GET path`.
pub(crate) async fn status(port: u16, path: &str) -> Option<u16> {
    ask(port, path).await.map(|(status, _)| status)
}

/// A region's state in a word: `ready`, or what it says stands in the way.
pub(crate) async fn readiness(port: u16) -> String {
    let Some((status, answer)) = ask(port, "/readyz").await else {
        return "not answering".to_owned();
    };
    if status == 200 {
        return "ready".to_owned();
    }
    let body = answer.iter().position(|byte| *byte == b'{').map(|start| &answer[start..]);
    let health = body.and_then(|body| serde_json::from_slice::<Health>(body).ok());
    health.map_or_else(|| "not ready".to_owned(), |health| health.status)
}
