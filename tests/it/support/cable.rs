//! A link between two regions that a test can turn into a black hole, in either direction.
//!
//! Cut, it is not closed: connections stay, and say nothing. That is what a broken path looks like
//! from both ends, and the case that time-outs exist for.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Which ways are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    to_server: bool,
    to_client: bool,
}

/// Forwards a port of its own to a server's.
pub(crate) struct Cable {
    port: u16,
    open: Arc<watch::Sender<Open>>,
    /// Aborts all when dropped.
    _tasks: tokio::task::JoinSet<()>,
}

impl Cable {
    pub(crate) async fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (open, watch) = watch::channel(Open { to_server: true, to_client: true });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let watch = watch.clone();
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = carry(from_client, to_server, watch.clone(), |open| open.to_server) => {}
                        () = carry(from_server, to_client, watch, |open| open.to_client) => {}
                    }
                });
            }
        });
        Self { port, open: Arc::new(open), _tasks: tasks }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Nothing goes either way.
    pub(crate) fn cut(&self) {
        self.open.send_replace(Open { to_server: false, to_client: false });
    }

    /// What the server says no longer arrives.
    pub(crate) fn cut_to_client(&self) {
        self.open.send_replace(Open { to_server: true, to_client: false });
    }

    pub(crate) fn heal(&self) {
        self.open.send_replace(Open { to_server: true, to_client: true });
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut open: watch::Receiver<Open>,
    way: fn(&Open) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if open.wait_for(way).await.is_err() {
            return;
        }
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        // What was read when the cut came waits here, as in a router's queue.
        if open.wait_for(way).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
