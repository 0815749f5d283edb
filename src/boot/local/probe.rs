//! Asks a server on this machine how it is.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server on this machine that takes longer to answer about itself is not well.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// Enough for the status line.
const HEAD_BYTES: usize = 64;

/// The status code of `GET path`.
pub(crate) async fn status(port: u16, path: &str) -> Option<u16> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        stream.take(HEAD_BYTES as u64).read_to_end(&mut head).await.ok()?;
        String::from_utf8_lossy(&head).split(' ').nth(1)?.parse().ok()
    };
    tokio::time::timeout(ANSWER_LIMIT, exchange).await.ok().flatten()
}

/// A region's state in a word.
pub(crate) async fn readiness(port: u16) -> String {
    match status(port, "/readyz").await {
        Some(200) => "ready".to_owned(),
        Some(_) => "not ready".to_owned(),
        None => "not answering".to_owned(),
    }
}
