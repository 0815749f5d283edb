//! Messages between regions without a broker: for tests about rights, which must hold whatever the
//! transport does. Links can be cut, requests can be delivered twice, and answers can get lost or come late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use entrepot::ports::{Bus, BusError, Delivery, Reachability, RequestHandler, RequestKind};
use entrepot::replication::{Envelope, Heartbeat, Position};
use entrepot::types::{Epoch, RegionId};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What all regions of a test share.
#[derive(Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handlers: BTreeMap<(RegionId, RequestKind), Arc<dyn RequestHandler>>,
    readers: BTreeMap<(RegionId, RegionId), mpsc::UnboundedSender<Bytes>>,
    cut: BTreeSet<(RegionId, RegionId)>,
    twice: bool,
    lose_answers: bool,
    lose_rows: bool,
    /// Requests of a kind are answered when somebody says so.
    held: BTreeMap<RequestKind, watch::Receiver<bool>>,
    carried_out: BTreeMap<RequestKind, BTreeSet<Bytes>>,
}

impl Hub {
    /// Answers to requests of a kind come when `true` is sent.
    pub(crate) fn hold_answers(&self, kind: RequestKind) -> watch::Sender<bool> {
        let (release, held) = watch::channel(false);
        self.state.lock().unwrap().held.insert(kind, held);
        release
    }

    /// Requests of a kind that were carried out so far; a repetition is no other one.
    pub(crate) fn carried_out(&self, kind: RequestKind) -> usize {
        self.state.lock().unwrap().carried_out.get(&kind).map_or(0, BTreeSet::len)
    }

    /// Nothing goes between the two, either way.
    pub(crate) fn cut(&self, a: RegionId, b: RegionId) {
        self.state.lock().unwrap().cut.extend([(a, b), (b, a)]);
    }

    /// Every link works again.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().cut.clear();
    }

    /// Every request arrives twice, at the same time.
    pub(crate) fn deliver_twice(&self, twice: bool) {
        self.state.lock().unwrap().twice = twice;
    }

    /// Requests are carried out, their answers get lost.
    pub(crate) fn lose_answers(&self, lose: bool) {
        self.state.lock().unwrap().lose_answers = lose;
    }

    /// Shipped rows get lost.
    pub(crate) fn lose_rows(&self, lose: bool) {
        self.state.lock().unwrap().lose_rows = lose;
    }

    fn is_cut(&self, a: RegionId, b: RegionId) -> bool {
        self.state.lock().unwrap().cut.contains(&(a, b))
    }
}

/// One region's side of the hub.
pub(crate) struct Port {
    pub(crate) hub: Arc<Hub>,
    pub(crate) own: RegionId,
    pub(crate) all: Vec<RegionId>,
}

impl Reachability for Port {
    fn reachable(&self) -> Vec<RegionId> {
        self.peers().into_iter().filter(|&peer| !self.hub.is_cut(self.own, peer)).collect()
    }

    fn heard_by_anybody(&self, region: RegionId) -> bool {
        let there = self.reachable();
        let hears = |peer: RegionId| peer != region && !self.hub.is_cut(peer, region);
        there.contains(&region) || there.into_iter().any(hears)
    }

    fn epoch_of(&self, _peer: RegionId) -> Option<Epoch> {
        Some(Epoch::FIRST)
    }
}

impl Port {
    fn note(&self, kind: RequestKind, request: &Bytes) {
        let mut state = self.hub.state.lock().unwrap();
        state.carried_out.entry(kind).or_default().insert(request.clone());
    }

    /// Rights don't travel in envelopes, so there are none here.
    fn carries_no_envelopes(&self) -> BusError {
        let reason = "this bus carries rights only".to_owned();
        BusError::Unreachable { peer: self.own, reason }
    }
}

#[async_trait]
impl Bus for Port {
    fn region(&self) -> RegionId {
        self.own
    }

    fn peers(&self) -> Vec<RegionId> {
        self.all.iter().copied().filter(|&region| region != self.own).collect()
    }

    async fn publish(&self, _envelopes: &[Envelope]) -> Result<(), BusError> {
        Err(self.carries_no_envelopes())
    }

    async fn published(&self) -> Result<Option<Position>, BusError> {
        Err(self.carries_no_envelopes())
    }

    async fn publish_rows(&self, rows: Bytes) -> Result<(), BusError> {
        let state = self.hub.state.lock().unwrap();
        for ((from, to), reader) in &state.readers {
            if *from == self.own && !state.cut.contains(&(*from, *to)) && !state.lose_rows {
                drop(reader.send(rows.clone()));
            }
        }
        Ok(())
    }

    async fn publish_heartbeat(&self, _heartbeat: &Heartbeat) -> Result<(), BusError> {
        Ok(())
    }

    fn envelopes(&self, _peer: RegionId) -> Result<BoxStream<'static, Delivery>, BusError> {
        Err(self.carries_no_envelopes())
    }

    #[expect(clippy::unwrap_in_result, reason = "a broken lock ends the test")]
    fn rows(&self, peer: RegionId) -> Result<BoxStream<'static, Bytes>, BusError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.hub
            .state
            .lock()
            .expect("no panic while held")
            .readers
            .insert((peer, self.own), sender);
        let next = |mut receiver: mpsc::UnboundedReceiver<Bytes>| async {
            receiver.recv().await.map(|rows| (rows, receiver))
        };
        Ok(futures::stream::unfold(receiver, next).boxed())
    }

    fn heartbeats(&self, _peer: RegionId) -> Result<BoxStream<'static, Heartbeat>, BusError> {
        Ok(futures::stream::pending().boxed())
    }

    async fn request(
        &self,
        peer: RegionId,
        kind: RequestKind,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, BusError> {
        let unreachable = |reason: &str| BusError::Unreachable { peer, reason: reason.to_owned() };
        let (handler, twice, lose, held) = {
            let state = self.hub.state.lock().unwrap();
            if state.cut.contains(&(self.own, peer)) {
                return Err(unreachable("the link is cut"));
            }
            let handler = state.handlers.get(&(peer, kind)).cloned();
            let handler = handler.ok_or_else(|| unreachable("not served"))?;
            (handler, state.twice, state.lose_answers, state.held.get(&kind).cloned())
        };
        let again = async {
            if twice {
                drop(handler.handle(self.own, request.clone()).await);
            }
        };
        let answer = async {
            let answer = tokio::join!(handler.handle(self.own, request.clone()), again).0;
            self.note(kind, &request);
            if let Some(mut held) = held {
                drop(held.wait_for(|&released| released).await);
            }
            answer
        };
        let answer = tokio::time::timeout(limit, answer).await;
        let answer = answer.map_err(|_| BusError::NoAnswer { peer })?;
        if lose || self.hub.is_cut(self.own, peer) {
            return Err(BusError::NoAnswer { peer });
        }
        answer.map_err(|reason| BusError::Refused { peer, reason })
    }

    async fn serve(
        &self,
        kind: RequestKind,
        handler: Arc<dyn RequestHandler>,
        stop: CancellationToken,
    ) {
        self.hub.state.lock().unwrap().handlers.insert((self.own, kind), handler);
        stop.cancelled().await;
        self.hub.state.lock().unwrap().handlers.remove(&(self.own, kind));
    }
}
