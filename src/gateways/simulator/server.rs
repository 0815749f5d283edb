//! Accepting connections, starting and stopping.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gateways::webhook::Secret;
use crate::ports::{Clock, Ids};
use crate::runtime::TaskSet;

use super::file::OpenError;
use super::ledger::Ledger;
use super::notify::Notifier;
use super::routes::Provider;

/// How many connections are served at once; more wait to be accepted. Enough for the pools of a dozen
/// regions and a thousand clients held by `tok_timeout_*`, and it bounds memory to some tens of MB.
const CONNECTIONS_MAX: usize = 4096;

/// How long a client may take for its headers, and a kept connection may be silent. Longer than our
/// own client keeps an idle connection, so that the client is the one who closes it.
const HEADERS_TIMEOUT: Duration = Duration::from_mins(1);

/// How long open requests may take to end when the process is told to stop. Those held in silence
/// never would.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The rest after a failed accept (out of file descriptors, most likely), so that it doesn't spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How the simulator is run.
#[derive(Debug)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The ledger's file.
    pub ledger: PathBuf,
    /// Who is told of `tok_async` authorizations, and the secret that signs it.
    pub webhooks: Vec<(Uri, Secret)>,
}

/// Why the simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// The address.
    #[error(
        "the payment simulator cannot listen on {address}: {error}; stop what uses the port, or choose another with --listen"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
}

/// A running simulator.
pub struct Simulator {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many bytes of a torn end were cut off the ledger.
    pub cut_bytes: u64,
    ledger: Arc<Ledger>,
    tasks: TaskSet,
}

impl Simulator {
    /// Opens the ledger, listens, and finishes what was pending when the last process ended.
    pub async fn start(
        options: Options,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self, StartError> {
        let (ledger, cut_bytes) = Ledger::open(&options.ledger)?;
        let ledger = Arc::new(ledger);
        let listen_error = |error| StartError::Listen { address: options.listen, error };
        let listener = TcpListener::bind(options.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let tasks = TaskSet::new();
        let notifier = Notifier::new(options.webhooks, Arc::clone(&clock), ids);
        let provider = Provider::new(Arc::clone(&ledger), clock, notifier, tasks.clone());
        let provider = Arc::new(provider);
        provider.settle_pending();
        tasks.spawn("accept", accept(listener, provider, tasks.clone()));
        Ok(Self { address, cut_bytes, ledger, tasks })
    }

    /// Is done when the ledger can't be written any more and the process should end.
    pub async fn broken(&self) {
        self.ledger.broken().await;
    }

    /// Stops accepting, lets open requests end for a moment, and closes the ledger.
    pub async fn stop(self) {
        let all_ended = self.tasks.shut_down(STOP_TIMEOUT).await;
        if !all_ended {
            tracing::info!("some clients of the payment simulator were still held; dropped");
        }
    }
}

async fn accept(listener: TcpListener, provider: Arc<Provider>, tasks: TaskSet) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stopping = tasks.stopping();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            () = stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, slot)) => {
                let connection = serve(stream, slot, Arc::clone(&provider), tasks.clone());
                tasks.spawn("connection", connection);
            }
            Err(error) => {
                tracing::warn!(%error, "the payment simulator cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    provider: Arc<Provider>,
    tasks: TaskSet,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(|request| provider.answer(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let stopping = tasks.stopping();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
