//! Messages between regions: each region's broker, and the network between.
//!
//! As with the real ones, a region publishes to its own broker, and every peer reads from there: what was
//! not acknowledged comes again, requests are answered by whoever serves there, rows and heartbeats come
//! once or not at all. Everything that crosses a link may be lost, doubled and overtaken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::ports::{Acknowledge, Bus, BusError, Delivery, RequestHandler, RequestKind};
use crate::replication::{Envelope, Heartbeat, Position};
use crate::runtime::spawn_named;
use crate::types::RegionId;

use super::life::Life;
use super::network::Network;
use super::shared::Shared;

/// How long a broker waits for an acknowledgement before it sends again.
const REDELIVER: Duration = Duration::from_secs(4);
/// How many it sends again at once.
const REDELIVER_MAX: usize = 32;

/// All brokers.
pub struct Hub {
    shared: Arc<Shared>,
    network: Arc<Network>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<RegionId, BTreeMap<Position, Envelope>>,
    /// What a peer has not acknowledged yet of a region's stream: by (region, peer).
    unacknowledged: BTreeMap<(RegionId, RegionId), BTreeMap<Position, Envelope>>,
    handlers: BTreeMap<(RegionId, RequestKind), (Life, Arc<dyn RequestHandler>)>,
    inboxes: BTreeMap<(RegionId, RegionId), Inbox>,
}

/// Where a process takes in what a peer's broker sends.
#[derive(Clone, Default)]
struct Inbox {
    envelopes: Option<mpsc::UnboundedSender<Envelope>>,
    rows: Option<mpsc::UnboundedSender<Bytes>>,
    heartbeats: Option<mpsc::UnboundedSender<Heartbeat>>,
}

/// What crosses a link.
#[derive(Clone)]
enum Message {
    Envelope(Envelope),
    Acknowledged(Position),
    Rows(Bytes),
    Heartbeat(Heartbeat),
}

impl Message {
    fn kind(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "envelopes",
            Self::Acknowledged(_) => "acknowledgements",
            Self::Rows(_) => "rows",
            Self::Heartbeat(_) => "heartbeats",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Envelope(envelope) => envelope.encoded_len(),
            Self::Acknowledged(_) => 0,
            Self::Rows(rows) => rows.len(),
            Self::Heartbeat(beat) => beat.encode().len(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "an envelope",
            Self::Acknowledged(_) => "an acknowledgement",
            Self::Rows(_) => "rows",
            Self::Heartbeat(_) => "a heartbeat",
        }
    }
}

impl Hub {
    /// Empty brokers.
    pub fn new(shared: Arc<Shared>, network: Arc<Network>) -> Self {
        Self { shared, network, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Lets go of everybody who reads or serves.
    pub fn clear(&self) {
        let mut state = self.state();
        state.handlers.clear();
        state.inboxes.clear();
    }

    /// A broker loses the last messages it had confirmed.
    pub fn forget(&self, region: RegionId, messages: usize) {
        let mut state = self.state();
        let Some(stream) = state.streams.get_mut(&region) else { return };
        let kept = stream.len().saturating_sub(messages);
        let lost: Vec<Position> = stream.keys().skip(kept).copied().collect();
        for position in &lost {
            stream.remove(position);
        }
        for ((from, _), waiting) in &mut state.unacknowledged {
            if *from == region {
                waiting.retain(|position, _| !lost.contains(position));
            }
        }
    }

    fn send(self: &Arc<Self>, from: RegionId, to: RegionId, message: &Message) {
        self.shared.sent(message.kind(), message.bytes());
        let delays = self.network.carry(from, to);
        if delays.is_empty() {
            self.shared.note(from.as_str(), format_args!("loses {} for {to}", message.name()));
        }
        for delay in delays {
            let (hub, message) = (Arc::clone(self), message.clone());
            drop(spawn_named("message", async move {
                tokio::time::sleep(delay).await;
                hub.deliver(from, to, message);
            }));
        }
    }

    fn deliver(&self, from: RegionId, to: RegionId, message: Message) {
        let mut state = self.state();
        if let Message::Acknowledged(position) = message {
            if let Some(waiting) = state.unacknowledged.get_mut(&(to, from)) {
                waiting.remove(&position);
            }
            return;
        }
        let Some(inbox) = state.inboxes.get(&(from, to)) else { return };
        // A reader that is gone loses it, as a broken connection would.
        match message {
            Message::Envelope(envelope) => {
                inbox.envelopes.as_ref().map(|reader| reader.send(envelope).is_ok())
            }
            Message::Rows(rows) => inbox.rows.as_ref().map(|reader| reader.send(rows).is_ok()),
            Message::Heartbeat(beat) => {
                inbox.heartbeats.as_ref().map(|reader| reader.send(beat).is_ok())
            }
            Message::Acknowledged(_) => None,
        };
    }

    /// Sends again what was not acknowledged, until the reader is gone.
    async fn redeliver(self: Arc<Self>, from: RegionId, to: RegionId, reader: Life) {
        while !reader.is_over() {
            let waiting: Vec<Envelope> = {
                let state = self.state();
                let waiting = state.unacknowledged.get(&(from, to)).into_iter().flatten();
                waiting.take(REDELIVER_MAX).map(|(_, envelope)| envelope.clone()).collect()
            };
            for envelope in waiting {
                self.send(from, to, &Message::Envelope(envelope));
            }
            tokio::time::sleep(REDELIVER).await;
        }
    }
}

/// One process's access to the brokers.
pub struct Port {
    /// All of them.
    pub hub: Arc<Hub>,
    /// Whose process.
    pub own: RegionId,
    /// Everybody else.
    pub peers: Vec<RegionId>,
    /// The process.
    pub life: Life,
}

struct Ack {
    hub: Arc<Hub>,
    own: RegionId,
    peer: RegionId,
    position: Position,
    life: Life,
}

#[async_trait]
impl Acknowledge for Ack {
    async fn acknowledge(&self) {
        self.life.go_on().await;
        self.hub.send(self.own, self.peer, &Message::Acknowledged(self.position));
    }
}

impl Port {
    fn to_peers(&self, message: &Message) {
        for peer in &self.peers {
            self.hub.send(self.own, *peer, message);
        }
    }

    /// Takes in one kind of message from a peer.
    fn reader<T: Send + 'static>(
        &self,
        peer: RegionId,
        place: impl FnOnce(&mut Inbox, mpsc::UnboundedSender<T>),
    ) -> BoxStream<'static, T> {
        let (sender, receiver) = mpsc::unbounded_channel();
        place(self.hub.state().inboxes.entry((peer, self.own)).or_default(), sender);
        let next = |mut receiver: mpsc::UnboundedReceiver<T>| async {
            match receiver.recv().await {
                Some(message) => Some((message, receiver)),
                // The next process reads now.
                None => std::future::pending().await,
            }
        };
        futures::stream::unfold(receiver, next).boxed()
    }
}

#[async_trait]
impl Bus for Port {
    fn region(&self) -> RegionId {
        self.own
    }

    fn peers(&self) -> Vec<RegionId> {
        self.peers.clone()
    }

    async fn publish(&self, envelopes: &[Envelope]) -> Result<(), BusError> {
        self.life.pass(Duration::from_millis(1)).await;
        for envelope in envelopes {
            {
                let mut state = self.hub.state();
                let stream = state.streams.entry(self.own).or_default();
                stream.insert(envelope.position(), envelope.clone());
                for peer in &self.peers {
                    let waiting = state.unacknowledged.entry((self.own, *peer)).or_default();
                    waiting.insert(envelope.position(), envelope.clone());
                }
            }
            self.to_peers(&Message::Envelope(envelope.clone()));
        }
        Ok(())
    }

    async fn published(&self) -> Result<Option<Position>, BusError> {
        self.life.pass(Duration::from_millis(1)).await;
        let state = self.hub.state();
        Ok(state.streams.get(&self.own).and_then(|stream| Some(*stream.last_key_value()?.0)))
    }

    async fn publish_rows(&self, rows: Bytes) -> Result<(), BusError> {
        self.life.go_on().await;
        self.to_peers(&Message::Rows(rows));
        Ok(())
    }

    async fn publish_heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), BusError> {
        self.life.go_on().await;
        self.to_peers(&Message::Heartbeat(heartbeat.clone()));
        Ok(())
    }

    fn envelopes(&self, peer: RegionId) -> Result<BoxStream<'static, Delivery>, BusError> {
        let envelopes = self.reader(peer, |inbox, sender| inbox.envelopes = Some(sender));
        let redeliver = Arc::clone(&self.hub).redeliver(peer, self.own, self.life.clone());
        drop(spawn_named("redeliver", redeliver));
        let (hub, own, life) = (Arc::clone(&self.hub), self.own, self.life.clone());
        let delivery = move |envelope: Envelope| {
            let position = envelope.position();
            let (hub, life) = (Arc::clone(&hub), life.clone());
            Delivery { envelope, ack: Box::new(Ack { hub, own, peer, position, life }) }
        };
        Ok(envelopes.map(delivery).boxed())
    }

    fn rows(&self, peer: RegionId) -> Result<BoxStream<'static, Bytes>, BusError> {
        Ok(self.reader(peer, |inbox, sender| inbox.rows = Some(sender)))
    }

    fn heartbeats(&self, peer: RegionId) -> Result<BoxStream<'static, Heartbeat>, BusError> {
        Ok(self.reader(peer, |inbox, sender| inbox.heartbeats = Some(sender)))
    }

    async fn request(
        &self,
        peer: RegionId,
        kind: RequestKind,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, BusError> {
        self.life.go_on().await;
        let (hub, own) = (Arc::clone(&self.hub), self.own);
        let (reply, answer) = oneshot::channel();
        let reply = Arc::new(Mutex::new(Some(reply)));
        hub.shared.note(own.as_str(), format_args!("asks {peer}: {}", kind.as_str()));
        hub.shared.sent(kind.as_str(), request.len());
        for delay in hub.network.carry(own, peer) {
            let (hub, request, reply) = (Arc::clone(&hub), request.clone(), Arc::clone(&reply));
            drop(spawn_named("request", async move {
                tokio::time::sleep(delay).await;
                let outcome = hub.serve_one(own, peer, kind, request).await;
                hub.shared.sent(kind.as_str(), outcome.as_ref().map_or(0, Bytes::len));
                // Copies of an answer are one answer.
                let Some(back) = hub.network.carry(peer, own).into_iter().min() else { return };
                tokio::time::sleep(back).await;
                let reply = reply.lock().expect("no panic while held").take();
                drop(reply.map(|reply| reply.send(outcome)));
            }));
        }
        drop(reply);
        let answer = tokio::time::timeout(limit, answer_or_silence(answer)).await;
        self.life.go_on().await;
        answer.unwrap_or(Err(BusError::NoAnswer { peer }))
    }

    async fn serve(
        &self,
        kind: RequestKind,
        handler: Arc<dyn RequestHandler>,
        stop: CancellationToken,
    ) {
        let served = (self.life.clone(), handler);
        self.hub.state().handlers.insert((self.own, kind), served);
        stop.cancelled().await;
    }
}

impl Hub {
    async fn serve_one(
        &self,
        from: RegionId,
        peer: RegionId,
        kind: RequestKind,
        request: Bytes,
    ) -> Result<Bytes, BusError> {
        let handler = self.state().handlers.get(&(peer, kind)).cloned();
        let Some((life, handler)) = handler.filter(|(life, _)| !life.is_over()) else {
            return Err(BusError::Unreachable { peer, reason: "nobody serves there".to_owned() });
        };
        let answer = handler.handle(from, request).await;
        life.go_on().await;
        answer.map_err(|reason| BusError::Refused { peer, reason })
    }
}

/// A question or an answer that got lost is silence.
async fn answer_or_silence(
    answer: oneshot::Receiver<Result<Bytes, BusError>>,
) -> Result<Bytes, BusError> {
    match answer.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}
