//! Links between regions that can be slowed, lossy, cut and healed, without root.
//!
//! Every pair of regions has one link, and all their traffic is on it: each side reaches the other's
//! HTTP and NATS servers at ports of the link only. A [`Way`] is one direction of a link: the requests
//! of one side and the answers to the other side's requests, whoever opened the connection. Faults are
//! set per way.
//!
//! ```text
//!   us-east ── listener (us-east → eu-west, HTTP) ──┬── way us-east → eu-west ──▶ eu-west's server
//!                                                   └── way eu-west → us-east ◀── its answers
//! ```
//!
//! - *Latency* delays each piece of data by its own due time, so that throughput is only bounded by
//!   [`pump::IN_FLIGHT_BYTES_MAX`]. A new connection waits for one round trip first, like a real handshake.
//! - *Loss* shows to a TCP user as a delay, because the kernel sends again what was lost and what
//!   follows waits for it. So a lost piece is late by a retransmission time-out, which doubles
//!   when the repetition is lost too.
//! - *Cut*: nothing passes and nothing is refused. Connections are accepted and stay silent, data is
//!   held. On healing, connections that held data are closed, so that their users connect again
//!   instead of waiting for a retransmission timer; others go on as if nothing had happened.

mod pump;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::runtime::TaskSet;
use crate::types::RegionId;

/// What one direction of a link does to what travels on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// One way, in microseconds.
    pub(crate) latency_us: u64,
    /// The latency varies by up to this much more, in microseconds.
    pub(crate) jitter_us: u64,
    /// Lost pieces in ten thousand.
    pub(crate) loss_per_10_000: u32,
}

impl Fault {
    fn latency(self) -> Duration {
        Duration::from_micros(self.latency_us)
    }
}

/// One direction between two regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) from: RegionId,
    pub(crate) to: RegionId,
}

impl Way {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// The faults of every way; connections follow them.
#[derive(Debug)]
pub(crate) struct Links {
    ways: BTreeMap<Way, (Fault, watch::Sender<Fault>)>,
}

/// An end of a link that is to be opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    /// Who connects there, and to whom that leads.
    pub(crate) way: Way,
    /// Where it listens on this machine.
    pub(crate) port: u16,
    /// The server it leads to, on this machine.
    pub(crate) target: u16,
}

impl Links {
    /// Links between all of `regions`; `base` is what healing goes back to.
    pub(crate) fn new(regions: &[RegionId], base: impl Fn(Way) -> Fault) -> Self {
        let mut ways = BTreeMap::new();
        for from in regions {
            for to in regions.iter().filter(|to| *to != from) {
                let way = Way { from: *from, to: *to };
                ways.insert(way, (base(way), watch::channel(base(way)).0));
            }
        }
        Self { ways }
    }

    /// Begins to listen at an end. Its connections are tasks of `tasks`.
    pub(crate) async fn open(&self, end: End, tasks: &TaskSet) -> anyhow::Result<()> {
        let address = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, end.port));
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for the link"))?;
        let there = self.way(end.way)?.1.subscribe();
        let back = self.way(end.way.back())?.1.subscribe();
        let connections = tasks.clone();
        let stop = tasks.stopping();
        drop(tasks.spawn("link", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                match accepted {
                    Ok((client, _)) => {
                        let connection = carry(client, end.target, there.clone(), back.clone());
                        let stop = stop.clone();
                        drop(connections.spawn("link-connection", async move {
                            tokio::select! {
                                () = connection => {}
                                () = stop.cancelled() => {}
                            }
                        }));
                    }
                    Err(error) => {
                        // Out of file descriptors: those in use will be closed.
                        tracing::warn!(%error, "a link cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }));
        Ok(())
    }

    fn way(&self, way: Way) -> anyhow::Result<&(Fault, watch::Sender<Fault>)> {
        self.ways.get(&way).with_context(|| format!("no link from {} to {}", way.from, way.to))
    }

    /// Changes the fault of one way, or of both. `change` gets the fault in force and the one that
    /// healing goes back to.
    pub(crate) fn change(
        &self,
        way: Way,
        one_way: bool,
        change: impl Fn(Fault, Fault) -> Fault,
    ) -> anyhow::Result<()> {
        let ways = [Some(way), (!one_way).then(|| way.back())];
        for way in ways.into_iter().flatten() {
            let (base, sender) = self.way(way)?;
            sender.send_modify(|fault| *fault = change(*fault, *base));
        }
        Ok(())
    }

    /// The faults in force.
    pub(crate) fn faults(&self) -> Vec<(Way, Fault)> {
        self.ways.iter().map(|(way, (_, fault))| (*way, *fault.borrow())).collect()
    }
}

/// Carries one connection to its end.
async fn carry(
    client: TcpStream,
    target: u16,
    mut there: watch::Receiver<Fault>,
    mut back: watch::Receiver<Fault>,
) {
    // A handshake takes a round trip, and none ends while one direction is cut.
    let handshake = there.borrow().latency() + back.borrow().latency();
    tokio::time::sleep(handshake).await;
    for way in [&mut there, &mut back] {
        if way.wait_for(|fault| !fault.cut).await.is_err() {
            return;
        }
    }
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await;
    // A server that is down: closing tells the client at once, as a refused connection would.
    let Ok(server) = server else { return };
    for stream in [&client, &server] {
        drop(stream.set_nodelay(true));
    }
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let requests = pump::pump(client_reads, server_writes, there);
    let answers = pump::pump(server_reads, client_writes, back);
    // A way that broke ends the connection; one that was closed in order leaves the other open.
    drop(tokio::try_join!(requests, answers));
}
