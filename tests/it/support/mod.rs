//! What the tests run on: servers that end with the test process, a cable that can be cut, and
//! conditions that are awaited instead of slept for.

pub(crate) mod cable;
pub(crate) mod ceilings;
pub(crate) mod hub;
pub(crate) mod nats;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod reconciled;
pub(crate) mod world;
pub(crate) mod writes;

use std::time::Duration;

/// How long a condition may take to come true. Generous, since machines are shared: a test that
/// fails here has waited for something that does not come.
const DEADLINE: Duration = Duration::from_mins(1);

/// Asks again and again until the answer is `Some`, or fails saying what was waited for.
pub(crate) async fn eventually<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let poll = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, poll).await {
        Ok(value) => value,
        Err(late) => panic!("{late}: within {DEADLINE:?} it did not come true that {what}"),
    }
}

/// A future that must be done soon.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(late) => panic!("{late}: within {DEADLINE:?} it did not happen: {what}"),
    }
}

/// A port of this machine that nobody listens to.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}
