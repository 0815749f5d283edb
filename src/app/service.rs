//! Everything that can be asked of a region: what `http` calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::domain::idempotency::StockRefusal;
use crate::domain::order::place::{PlaceRejection, PlaceRequest};
use crate::domain::order::{OrderRecord, OrderStatus};
use crate::escrow::ORDER_LEASE_MARGIN_MS;
use crate::mutants::{Mutant, is_on};
use crate::ports::{Reader, RightsSource, StoreError};
use crate::replication::{LinkState, PeerView, Peers};
use crate::types::{Actor, HlcTimestamp, OrderId, RegionId, SagaId, Sku};

use super::{
    AdjustOutcome, AdjustStock, Adjusted, Completions, InFlightIntents, IntentLookup,
    InventoryView, Knowledge, PlaceOrder, PlaceOutcome, Region, SagaRunner, Stops, WriteError,
    Writer, inventory_view, place_order,
};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct AppSettings {
    /// Asking peers for rights, for one order.
    pub grant_wait: Duration,
    /// How long a saga belongs to the process that placed its order.
    pub saga_lease: Duration,
    /// A saga that is open for longer counts as stuck (I-16).
    pub saga_stuck: Duration,
}

/// One region's use cases.
pub struct App {
    /// Who we are.
    pub region: Arc<Region>,
    /// Reads.
    pub reader: Arc<dyn Reader>,
    /// Writes.
    pub writer: Writer,
    /// Sagas of this process.
    pub sagas: Arc<SagaRunner>,
    /// Who waits for them.
    pub completions: Arc<Completions>,
    /// Rights of other regions.
    pub rights: Arc<dyn RightsSource>,
    /// What is known of the other regions; the heartbeats keep it.
    pub peers: Arc<Mutex<Peers>>,
    /// How long things may take.
    pub settings: AppSettings,
    /// Why this region takes no new orders.
    pub stops: Arc<Stops>,
    /// Intents under way.
    pub in_flight: Arc<InFlightIntents>,
    /// Asks other regions about intents; `None` where there are none.
    pub lookup: Option<IntentLookup>,
}

/// How a placement ended for the one who asked.
#[derive(Debug, Clone)]
pub enum Placement {
    /// The order is decided: confirmed, or cancelled with its reason.
    Settled {
        /// As it is.
        order: Arc<OrderRecord>,
        /// The intent had its order before.
        replayed: bool,
    },
    /// Durable; the saga goes on.
    Running {
        /// As it is.
        order: Arc<OrderRecord>,
        /// The intent had its order before.
        replayed: bool,
    },
    /// Nothing was reserved, nothing is held.
    OutOfStock {
        /// Why.
        refusals: Vec<StockRefusal>,
        /// It was refused before.
        replayed: bool,
    },
    /// Another region took this intent or this channel reference: ask there; when it can't be asked, the copy is the best answer.
    Elsewhere {
        /// Which.
        home: RegionId,
        /// Its order as far as it was copied.
        copy: Option<Arc<OrderRecord>>,
    },
    /// The key was used for another request.
    KeyReused,
    /// The channel reference names another customer's order.
    ChannelRefTaken,
    /// The same intent is being carried out right now.
    InFlight,
    /// The request can't be an order.
    Rejected(PlaceRejection),
    /// This region takes no new orders.
    Draining,
}

/// How another region looks from here.
#[derive(Debug, Clone)]
pub struct RegionStatus {
    /// Which.
    pub region: RegionId,
    /// This one.
    pub own: bool,
    /// `ready`, `draining`, `set_back`, `in_doubt`, `fenced`, `silent`, `one_way` or `never_heard`
    pub status: &'static str,
    /// What the heartbeats tell; `None` for this region.
    pub view: Option<PeerView>,
    /// A majority lets it act on its orders; `None` of other regions.
    pub order_lease: Option<bool>,
}

impl App {
    /// Puts the use cases together.
    #[expect(clippy::too_many_arguments, reason = "the parts of a region, each of its own type")]
    pub fn new(
        region: Arc<Region>,
        reader: Arc<dyn Reader>,
        writer: Writer,
        sagas: Arc<SagaRunner>,
        rights: Arc<dyn RightsSource>,
        peers: Arc<Mutex<Peers>>,
        stops: Arc<Stops>,
        lookup: Option<IntentLookup>,
        settings: AppSettings,
    ) -> Self {
        let completions = Arc::clone(&sagas.completions);
        let in_flight = Arc::new(InFlightIntents::default());
        Self {
            region,
            reader,
            writer,
            sagas,
            completions,
            rights,
            peers,
            settings,
            stops,
            in_flight,
            lookup,
        }
    }

    /// Places an order and waits for its saga until `wait` is over, counted from now: what was spent on
    /// asking other regions is no more to be had. `strayed`: the request belongs to another region's
    /// shopper, so an earlier attempt may have gone there.
    pub async fn place_order(
        &self,
        request: PlaceRequest,
        body_hash: String,
        wait: Duration,
        strayed: bool,
    ) -> Result<Placement, WriteError> {
        let began_ms = self.region.clock.monotonic_ms();
        let left = || {
            let spent_ms = self.region.clock.monotonic_ms() - began_ms;
            wait.saturating_sub(Duration::from_millis(spent_ms))
        };
        let Some(_guard) = self.in_flight.enter(&request.intent) else {
            return Ok(Placement::InFlight);
        };
        if let Some(lookup) =
            self.lookup.as_ref().filter(|_| strayed && !is_on(Mutant::PeersNotAsked))
        {
            match lookup.ask(&request.intent).await {
                Knowledge::Unknown => {}
                Knowledge::InFlight => return Ok(Placement::InFlight),
                Knowledge::Taken(record) if record.body_hash != body_hash => {
                    return Ok(Placement::KeyReused);
                }
                Knowledge::Taken(record) => {
                    return Ok(Placement::Elsewhere { home: record.region, copy: None });
                }
            }
        }
        let order_id = self.region.order_id();
        let finished = self.completions.wait_for(order_id);
        let lease_ms = u64::try_from(self.settings.saga_lease.as_millis()).unwrap_or(u64::MAX);
        let prepare = |last_word| PlaceOrder {
            request: request.clone(),
            body_hash: body_hash.clone(),
            order_id,
            saga_lease_ms: lease_ms,
            last_word,
        };
        let grant_wait = self.settings.grant_wait;
        let outcome =
            place_order(&self.writer, &self.region, self.rights.as_ref(), grant_wait, prepare)
                .await;
        let placement = match outcome {
            Ok(PlaceOutcome::Placed(order, saga)) => {
                self.sagas.start(*saga, Arc::clone(&order));
                self.settle(order, finished, left(), false).await
            }
            Ok(PlaceOutcome::Replayed(order)) => {
                let finished = self.completions.wait_for(order.order.id);
                let order = self.reread(order).await;
                let known = order.order.id;
                // Our own commit, whose outcome was not known: its saga was not started yet.
                let ours = known == order_id;
                if ours && let Err(error) = self.sagas.nudge(Arc::clone(&order)).await {
                    tracing::warn!(order = %known, %error, "its saga waits for the recovery");
                }
                let placement = self.settle(order, finished, left(), !ours).await;
                self.completions.give_up(known);
                placement
            }
            Ok(PlaceOutcome::OutOfStock { refusals, replayed }) => {
                Placement::OutOfStock { refusals, replayed }
            }
            Ok(PlaceOutcome::Elsewhere { home, copy }) => Placement::Elsewhere { home, copy },
            Ok(PlaceOutcome::KeyReused) => Placement::KeyReused,
            Ok(PlaceOutcome::ChannelRefTaken) => Placement::ChannelRefTaken,
            Ok(PlaceOutcome::Rejected(rejection)) => Placement::Rejected(rejection),
            Ok(PlaceOutcome::Draining) => Placement::Draining,
            Ok(PlaceOutcome::Short(_)) => unreachable!("place_order answers no shortage"),
            Err(error) => {
                self.completions.give_up(order_id);
                return Err(error);
            }
        };
        self.completions.give_up(order_id);
        Ok(placement)
    }

    /// The saga may have ended between the look-up and the registration of the waiter.
    async fn reread(&self, order: Arc<OrderRecord>) -> Arc<OrderRecord> {
        match self.reader.order(order.order.id).await {
            Ok(Some(now)) => now,
            Ok(None) | Err(_) => order,
        }
    }

    async fn settle(
        &self,
        order: Arc<OrderRecord>,
        finished: tokio::sync::oneshot::Receiver<Arc<OrderRecord>>,
        wait: Duration,
        replayed: bool,
    ) -> Placement {
        if order.order.status() != OrderStatus::Pending && replayed {
            return Placement::Settled { order, replayed };
        }
        if let Ok(Ok(order)) = tokio::time::timeout(wait, finished).await {
            return Placement::Settled { order, replayed };
        }
        let order = self.reread(order).await;
        if order.order.status() == OrderStatus::Pending {
            Placement::Running { order, replayed }
        } else {
            Placement::Settled { order, replayed }
        }
    }

    /// Changes what is on the shelf. Stock under other regions' rights is called back first.
    pub async fn adjust_stock(
        &self,
        mut make: impl FnMut() -> AdjustStock + Send,
    ) -> Result<AdjustOutcome, WriteError> {
        let (outcome, _) = self.writer.submit(make()).await?;
        let key = make().key;
        if let AdjustOutcome::Done(Adjusted { delta: 1.., .. }) = outcome {
            self.rights.open(&key).await;
        }
        let AdjustOutcome::Promised { wanted, removable } = outcome else { return Ok(outcome) };
        let patience = self.settings.grant_wait;
        if !self.rights.recall(&key, wanted, removable, patience).await {
            return Ok(outcome);
        }
        Ok(self.writer.submit(make()).await?.0)
    }

    /// A SKU as this region knows it. `None` when the catalogue has no such SKU.
    pub async fn inventory(&self, sku: &Sku) -> Result<Option<InventoryView>, StoreError> {
        if self.reader.product(sku).await?.is_none() {
            return Ok(None);
        }
        let rows = self.reader.rights_of(sku).await?;
        let own = Actor { region: self.region.id, epoch: self.region.epoch };
        Ok(Some(inventory_view(own, self.region.sellers(), rows)))
    }

    /// As of when the copies of a region's orders are complete. `None` for this region, and when
    /// nothing was heard of the other since the start.
    pub fn stale_as_of(&self, home: RegionId) -> Option<HlcTimestamp> {
        self.peers.lock().expect("no panic while held").fresh_as_of(home)
    }

    /// A request to that region can be tried.
    pub fn is_reachable(&self, region: RegionId) -> bool {
        let now_ms = self.region.clock.monotonic_ms();
        self.peers.lock().expect("no panic while held").reachable(region, now_ms)
    }

    /// Every region as seen from here, this one first.
    pub fn regions(&self) -> Vec<RegionStatus> {
        let own_status = if self.region.is_set_back() {
            "set_back"
        } else if self.region.is_in_doubt() {
            "in_doubt"
        } else if self.region.is_fenced() {
            "fenced"
        } else if self.region.is_witness() {
            "witness"
        } else if self.region.is_draining() {
            "draining"
        } else {
            "ready"
        };
        let own = RegionStatus {
            region: self.region.id,
            own: true,
            status: own_status,
            view: None,
            order_lease: Some(self.region.holds_order_lease(ORDER_LEASE_MARGIN_MS)),
        };
        let now_ms = self.region.clock.monotonic_ms();
        let views = self.peers.lock().expect("no panic while held").views(now_ms);
        let others = views.into_iter().map(|view| {
            let status = match view.link {
                LinkState::Up if self.region.witness == Some(view.region) => "witness",
                LinkState::Up if view.draining => "draining",
                LinkState::Up => "ready",
                LinkState::OneWay => "one_way",
                LinkState::Silent => "silent",
                LinkState::NeverHeard => "never_heard",
            };
            RegionStatus {
                region: view.region,
                own: false,
                status,
                view: Some(view),
                order_lease: None,
            }
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Looks at a saga again now. `false` when there is none, or it is over.
    pub async fn retry_saga(&self, id: SagaId) -> Result<bool, StoreError> {
        let Some(saga) = self.reader.saga(id).await?.filter(|saga| !saga.state.is_over()) else {
            return Ok(false);
        };
        let Some(order) = self.reader.order(saga.order_id).await? else { return Ok(false) };
        self.sagas.start(saga, order);
        Ok(true)
    }

    /// Which region writes an order, as far as is known here. `None` for an id that no region of this deployment
    /// made.
    pub async fn home_of(&self, id: OrderId) -> Result<Option<RegionId>, StoreError> {
        let Some(placed_in) = self.region.placed_in(id) else { return Ok(None) };
        let order = self.reader.order(id).await?;
        Ok(Some(order.map_or(placed_in, |record| record.order.home_region)))
    }

    /// A payment provider says that something happened to an order: look now.
    pub async fn nudge_order(&self, id: OrderId) -> Result<(), StoreError> {
        match self.reader.order(id).await? {
            Some(order) if order.order.home_region == self.region.id => {
                self.sagas.nudge(order).await
            }
            Some(_) | None => Ok(()),
        }
    }
}
