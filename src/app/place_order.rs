//! Placing an order: the intent is looked up, the decision is made and committed, the saga goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::idempotency::{IntentRecord, StockRefusal, StoredAnswer};
use crate::domain::inventory::{Shortage, StockDelta};
use crate::domain::order::place::{self, PlaceContext, PlaceRejection, PlaceRequest};
use crate::domain::order::{EventBody, OrderRecord, OrderStatus};
use crate::escrow::ORDER_LEASE_MARGIN_MS;
use crate::mutants::{Mutant, is_on};
use crate::ports::{Needs, Obtained, RightsSource};
use crate::saga::{CompensationReason, SagaRecord, SagaState, Step};
use crate::types::{OrderId, RegionId, SagaId, Sku, StockKey};

use super::{Command, Region, Workspace, WriteError, Writer};

/// Places an order.
pub struct PlaceOrder {
    /// What is asked for.
    pub request: PlaceRequest,
    /// Hex SHA-256 of the request.
    pub body_hash: String,
    /// The id it will have: chosen beforehand, so that a decision made twice is recognized.
    pub order_id: OrderId,
    /// How long the saga belongs to this process.
    pub saga_lease_ms: u64,
    /// Peers have been asked: a shortage is final and is kept as this intent's answer.
    pub last_word: Option<LastWord>,
}

/// What was found out about an order's shortages.
#[derive(Debug, Clone)]
pub enum LastWord {
    /// Nobody gives any of these SKUs; what others hold of them. Of another SKU the order is short anew: others
    /// were faster, and it is asked for in turn.
    InVain(BTreeMap<Sku, u64>),
    /// The time is up, whatever the order is short of.
    OutOfTime(BTreeMap<Sku, u64>),
}

/// An order is nearly always decided within so many milliseconds: with a lease under which nothing can be begun any more
/// by then, it is placed like one without.
const PLACED_WITHIN_MS: u64 = 2 * ORDER_LEASE_MARGIN_MS;
/// How many times `grant_wait` an order is decided again while what it asks for comes in and others, or the rest
/// of its lines, are faster.
const GRANT_WAITS_MAX: u32 = 2;

/// What became of it.
#[derive(Debug, Clone)]
pub enum PlaceOutcome {
    /// Taken: durable, units held, its saga is to be run.
    Placed(Arc<OrderRecord>, Box<SagaRecord>),
    /// This intent, or this channel reference, has its order already.
    Replayed(Arc<OrderRecord>),
    /// This intent was refused before, or is now.
    OutOfStock {
        /// Why.
        refusals: Vec<StockRefusal>,
        /// It was refused before.
        replayed: bool,
    },
    /// Another region took this intent or this channel reference.
    Elsewhere {
        /// Which.
        home: RegionId,
        /// The copy of its order, if it has arrived.
        copy: Option<Arc<OrderRecord>>,
    },
    /// The key was used for another request.
    KeyReused,
    /// The channel reference names another customer's order.
    ChannelRefTaken,
    /// The rights held here don't suffice: ask the peers.
    Short(Vec<Shortage>),
    /// The request can't be an order.
    Rejected(PlaceRejection),
    /// This region takes no new orders.
    Draining,
}

impl Command for PlaceOrder {
    type Answer = PlaceOutcome;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.intents.insert(self.request.intent.clone());
        needs.skus.extend(self.request.lines.iter().map(|line| line.sku.clone()));
        if let Some(reference) = self.channel_ref() {
            needs.channel_refs.insert(reference);
        }
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> PlaceOutcome {
        if !is_on(Mutant::NoIntentLookUp)
            && let Some(known) = self.known_intent(workspace)
        {
            return known;
        }
        if let Some(known) = self.known_reference(workspace) {
            return known;
        }
        if workspace.region.is_draining() && !is_on(Mutant::DrainedTakesOrders) {
            return PlaceOutcome::Draining;
        }
        let region = workspace.region;
        let mut fresh = || region.ids.uuid();
        let mut context = PlaceContext {
            region: region.id,
            epoch: region.epoch,
            now_ms: workspace.now_ms,
            order_id: self.order_id,
            fresh: &mut fresh,
        };
        let view = &mut workspace.view;
        match place::decide(&self.request, &view.products, &mut view.stock, &mut context) {
            Ok((order, payments)) => self.take(workspace, order, payments),
            Err(PlaceRejection::InsufficientStock(short)) => self.refuse(workspace, short),
            Err(rejection) => PlaceOutcome::Rejected(rejection),
        }
    }
}

impl PlaceOrder {
    fn channel_ref(&self) -> Option<(String, String)> {
        let reference = self.request.channel_order_ref.clone()?;
        Some((self.request.channel.clone(), reference))
    }

    fn known_intent(&self, workspace: &Workspace<'_>) -> Option<PlaceOutcome> {
        let records = workspace.view.intents.get(&self.request.intent)?;
        // An order that yielded to another region's speaks no more for the intent of both.
        let stands = |record: &&IntentRecord| {
            let order = record.order_id.and_then(|id| workspace.view.orders.get(&id));
            let cancelled = order.and_then(|order| order.order.cancellation.as_ref());
            cancelled.is_none_or(|why| why.code != CompensationReason::Duplicate.code())
        };
        let is_own = |record: &&IntentRecord| record.region == workspace.region.id;
        // One with an order goes before a refusal: the shopper may have had more luck elsewhere.
        let orders = || records.iter().filter(stands).filter(|record| record.order_id.is_some());
        let standing = orders()
            .find(is_own)
            .or_else(|| orders().next())
            .or_else(|| records.iter().find(is_own).filter(stands))
            .or_else(|| records.iter().find(stands));
        let record =
            standing.or_else(|| records.iter().find(is_own)).or_else(|| records.first())?;
        if record.body_hash != self.body_hash && !is_on(Mutant::AnyBodyReplays) {
            return Some(PlaceOutcome::KeyReused);
        }
        if standing.is_none()
            && let Some(other) = self.known_reference(workspace)
        {
            return Some(other);
        }
        let order = record.order_id.and_then(|id| workspace.view.orders.get(&id)).cloned();
        // An order that has moved is answered by its home of now.
        let home = order.as_ref().map_or(record.region, |order| order.order.home_region);
        if home != workspace.region.id {
            return Some(PlaceOutcome::Elsewhere { home, copy: order });
        }
        match (&record.answer, order) {
            (Some(StoredAnswer::InsufficientStock(refusals)), _) => {
                Some(PlaceOutcome::OutOfStock { refusals: refusals.clone(), replayed: true })
            }
            (_, Some(order)) => Some(PlaceOutcome::Replayed(order)),
            (_, None) => Some(PlaceOutcome::KeyReused),
        }
    }

    /// The order that stands under the channel's reference, in whichever region. One that was refused or
    /// cancelled speaks no more for it. Of several, until all but one have yielded, the one that will stay.
    fn known_reference(&self, workspace: &Workspace<'_>) -> Option<PlaceOutcome> {
        let ids = workspace.view.channel_refs.get(&self.channel_ref()?)?;
        let orders = ids.iter().filter_map(|id| workspace.view.orders.get(id));
        let standing = orders.filter(|record| record.order.status() != OrderStatus::Cancelled);
        let (seen, foreign): (Vec<_>, Vec<_>) =
            standing.partition(|record| self.may_answer(record));
        let Some(record) = seen.into_iter().min_by_key(|record| record.precedence()) else {
            return (!foreign.is_empty()).then_some(PlaceOutcome::ChannelRefTaken);
        };
        let (home, record) = (record.order.home_region, Arc::clone(record));
        Some(if home == workspace.region.id {
            PlaceOutcome::Replayed(record)
        } else {
            // One that is not decided may still leave the reference to this very request: then its home alone can
            // answer.
            let is_decided = record.order.status() == OrderStatus::Confirmed;
            PlaceOutcome::Elsewhere { home, copy: is_decided.then_some(record) }
        })
    }

    /// May this order be the answer? A customer is shown only his own; and a service that orders for one
    /// customer doesn't mean another's order.
    fn may_answer(&self, record: &OrderRecord) -> bool {
        let owner = record.order.customer_id.as_ref();
        let is_shown = self.request.sees_only.as_ref().is_none_or(|only| Some(only) == owner);
        let is_meant = match (&self.request.customer_id, owner) {
            (Some(asked), Some(owner)) => asked == owner,
            _ => true,
        };
        is_shown && is_meant || is_on(Mutant::AnyReferenceAnswers)
    }

    fn take(
        &self,
        workspace: &mut Workspace<'_>,
        mut order: crate::domain::order::Order,
        payments: Vec<place::PaymentIntent>,
    ) -> PlaceOutcome {
        for line in &order.lines {
            for allocation in &line.allocations {
                let key = StockKey { sku: line.sku.clone(), node: allocation.node.clone() };
                let spent = u64::from(allocation.quantity);
                workspace.change_stock(key, StockDelta { spent, ..StockDelta::default() });
            }
        }
        order.alone = !workspace.region.holds_order_lease(PLACED_WITHIN_MS);
        let now_ms = workspace.now_ms;
        let mut saga = SagaRecord {
            id: SagaId(order.id.0),
            order_id: order.id,
            state: SagaState::Running,
            step: Step::Authorize,
            attempts: 0,
            log: Vec::new(),
            payments,
            reason: None,
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
            due_at_ms: now_ms + self.saga_lease_ms,
            version: 0,
        };
        saga.note(Step::Reserve, "units held", now_ms);
        let intent = IntentRecord {
            intent: self.request.intent.clone(),
            region: workspace.region.id,
            body_hash: self.body_hash.clone(),
            order_id: Some(order.id),
            answer: None,
            first_at_ms: now_ms,
        };
        if let Some(reference) = self.channel_ref() {
            workspace.view.channel_refs.entry(reference).or_default().push(order.id);
        }
        let mut made = workspace.change_order(None);
        let stamp = workspace.tick();
        made.push(stamp, EventBody::Placed(Box::new(order)))
            .expect("the first event is a placement");
        let record = workspace.write_order(made, Some(intent));
        let saga = workspace.write_saga(saga);
        PlaceOutcome::Placed(record, Box::new(saga))
    }

    fn refuse(&self, workspace: &mut Workspace<'_>, short: Vec<Shortage>) -> PlaceOutcome {
        let elsewhere = match &self.last_word {
            Some(LastWord::OutOfTime(elsewhere)) => elsewhere,
            Some(LastWord::InVain(elsewhere))
                if short.iter().any(|short| elsewhere.contains_key(&short.sku)) =>
            {
                elsewhere
            }
            Some(LastWord::InVain(_)) | None => return PlaceOutcome::Short(short),
        };
        let refusals: Vec<StockRefusal> = short
            .into_iter()
            .map(|short| StockRefusal {
                available_elsewhere: elsewhere.get(&short.sku).copied().unwrap_or(0),
                sku: short.sku,
                wanted: short.wanted,
                available_here: short.available_here,
            })
            .collect();
        workspace.write_intent(IntentRecord {
            intent: self.request.intent.clone(),
            region: workspace.region.id,
            body_hash: self.body_hash.clone(),
            order_id: None,
            answer: Some(StoredAnswer::InsufficientStock(refusals.clone())),
            first_at_ms: workspace.now_ms,
        });
        PlaceOutcome::OutOfStock { refusals, replayed: false }
    }
}

/// Places an order, asking the peers for rights when those held here don't suffice: for `grant_wait` at
/// most. Others of this region may be faster to use what comes; then it asks again, [`GRANT_WAITS_MAX`] times as long in
/// all, counted from the first decision, since time in the queue is not the peers'.
/// `prepare` makes the command for an order id.
pub async fn place_order(
    writer: &Writer,
    region: &Region,
    rights: &dyn RightsSource,
    grant_wait: Duration,
    mut prepare: impl FnMut(Option<LastWord>) -> PlaceOrder,
) -> Result<PlaceOutcome, WriteError> {
    let mut last_word = None;
    let mut short_since_ms = None;
    loop {
        let (outcome, _) = writer.submit(prepare(last_word.take())).await?;
        let PlaceOutcome::Short(short) = outcome else { return Ok(outcome) };
        if is_on(Mutant::NobodyIsAsked) {
            last_word = Some(LastWord::OutOfTime(BTreeMap::new()));
            continue;
        }
        let now_ms = region.clock.monotonic_ms();
        let waited = Duration::from_millis(now_ms - *short_since_ms.get_or_insert(now_ms));
        let patience = (grant_wait * GRANT_WAITS_MAX).saturating_sub(waited).min(grant_wait);
        let Obtained { gained, mut elsewhere } = rights.obtain(&short, patience).await;
        for short in short {
            elsewhere.entry(short.sku).or_insert(0);
        }
        if waited >= grant_wait * GRANT_WAITS_MAX {
            last_word = Some(LastWord::OutOfTime(elsewhere));
        } else if !gained {
            last_word = Some(LastWord::InVain(elsewhere));
        }
    }
}
