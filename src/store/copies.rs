//! Copies of what other regions wrote: reads payloads, folds events, writes rows.
//!
//! The copy of an order is the fold of its events, made here again from the copy before (I-19): an
//! event that doesn't continue the chain, or whose fold leaves another status than its home says, is
//! refused, and with it the whole batch. So a copy is right or it stands still with an alert; it is
//! never quietly different.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::to_raw_value;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::domain::catalogue::{Node, Product};
use crate::domain::change::{Change, OrderChange, Payload};
use crate::domain::idempotency::IntentRecord;
use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::domain::order::{
    Event, OrderRecord, OrderStatus, Take, fold_copy, released, take_new, take_whole,
};
use crate::mutants::{Mutant, is_on};
use crate::replication::{Envelope, Position};
use crate::saga::SagaRecord;
use crate::types::{Actor, Epoch, NodeId, OrderId, RegionId, Sku};

use super::commit::{give_back, insert_intents_with, upsert_nodes, upsert_products};
use super::contests::{self, Claims};
use super::encode::{self, EventColumns, OrderColumns, from_json, order_record};
use super::rejoin::{DROP_SAGAS, SET_ASIDE};
use super::{load, sagas};

pub(super) const STATEMENTS: &[&str] = &[COPY_INTENTS, EVENTS_OF, EPOCH, GIVEN_BACK];

/// An intent that was copied already stays as it is.
pub(super) const COPY_INTENTS: &str = "
INSERT INTO idempotency (principal, key, region, body_hash, order_id, answer, first_at_ms)
SELECT a, b, c, d, e, f, g
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::bigint[])
     AS u(a, b, c, d, e, f, g)
ON CONFLICT DO NOTHING";

pub(super) const EVENTS_OF: &str = "
SELECT order_id, events FROM order_events WHERE order_id = ANY($1::uuid[]) ORDER BY order_id, first_seq";

/// Not locked: sales lock their rows before the head. Rows of an incarnation that is over take no more.
const EPOCH: &str = "SELECT epoch FROM outbox_head";

/// Orders whose cancellation was set aside: what they held was given back when this region wrote that.
const GIVEN_BACK: &str = "
SELECT DISTINCT order_id FROM parted
WHERE order_id = ANY($1::uuid[]) AND events LIKE '%\"type\":\"order.cancelled\"%'";

/// Why copies could not be written. Nothing was.
#[derive(Debug)]
pub(super) enum CopyProblem {
    /// The database did not do it.
    Sql(sqlx::Error),
    /// The envelope says something that doesn't fit.
    CantApply {
        /// Which envelope.
        position: Position,
        /// What doesn't fit.
        reason: String,
    },
}

impl From<sqlx::Error> for CopyProblem {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// What a batch of envelopes brings.
#[derive(Debug, Default)]
pub(super) struct Copies {
    orders: Vec<(Position, OrderChange)>,
    intents: Vec<IntentRecord>,
    /// Of the new orders that were written: channel and the channel's own name.
    references: Vec<(String, String)>,
    products: BTreeMap<Sku, Product>,
    nodes: BTreeMap<NodeId, Node>,
    /// Orders have come to be this region's.
    pub(super) came_here: bool,
}

/// Reads the payloads of a batch.
pub(super) fn read(batch: &[Envelope]) -> Result<Copies, CopyProblem> {
    let mut copies = Copies::default();
    for envelope in batch {
        let position = envelope.position();
        let payload: Payload = serde_json::from_slice(&envelope.payload).map_err(|error| {
            let reason = format!("its payload can't be read by this version: {error}");
            CopyProblem::CantApply { position, reason }
        })?;
        for change in payload.changes {
            copies.take(position, change);
        }
    }
    Ok(copies)
}

impl Copies {
    fn take(&mut self, position: Position, change: Change) {
        match change {
            Change::Order(mut change) => {
                self.intents.extend(change.intent.take());
                self.orders.push((position, change));
            }
            // One statement can't write a row twice: of two values the newer one wins here already.
            Change::Product(product) => {
                let known = self.products.get(&product.sku);
                if known.is_none_or(|known| known.hlc < product.hlc) {
                    self.products.insert(product.sku.clone(), product);
                }
            }
            Change::Node(node) => {
                let known = self.nodes.get(&node.id);
                if known.is_none_or(|known| known.hlc < node.hlc) {
                    self.nodes.insert(node.id.clone(), node);
                }
            }
        }
    }

    /// Writes everything inside the caller's transaction.
    pub(super) async fn write(
        &mut self,
        connection: &mut PgConnection,
        own: RegionId,
        origin: RegionId,
        now_ms: u64,
    ) -> Result<(), CopyProblem> {
        self.write_orders(connection, own, origin, now_ms).await?;
        insert_intents_with(COPY_INTENTS, connection, &self.intents).await?;
        // As far as the commits of this region can be seen by now.
        contests::find(connection, own, &self.claims()).await?;
        upsert_products(connection, self.products.values()).await?;
        upsert_nodes(connection, self.nodes.values()).await?;
        Ok(())
    }

    async fn write_orders(
        &mut self,
        connection: &mut PgConnection,
        own: RegionId,
        origin: RegionId,
        now_ms: u64,
    ) -> Result<(), CopyProblem> {
        if self.orders.is_empty() {
            return Ok(());
        }
        let stored = self.stored(connection).await?;
        let mut known = self.histories(connection).await?;
        let (mut records, mut changed) = (stored.clone(), BTreeSet::new());
        let (mut events, mut parted) = (EventColumns::default(), Vec::new());
        for (position, change) in &self.orders {
            let id = change.order_id;
            let cant = |reason: String| CopyProblem::CantApply {
                position: *position,
                reason: format!("order {id}: {reason}"),
            };
            let is_whole = !change.retold.is_empty();
            let ours = known.entry(id).or_default();
            let take = if is_whole {
                take_whole(ours, &change.events)
            } else {
                take_new(records.get(&id), origin)
            };
            let before = match take {
                Take::Nothing => continue,
                Take::Append => records.remove(&id),
                Take::Replace => {
                    parted.push(id.0);
                    ours.clear();
                    None
                }
            };
            let is_new = before.is_none();
            // Also what a region learned from others comes again from its origin.
            let have = before.as_ref().map_or(0, |record| record.version);
            let record = fold_copy(before, id, &change.events)
                .map_err(|error| cant(error.to_string()))?
                .ok_or_else(|| cant("no events".to_owned()))?;
            let home = record.order.home_region;
            let is_last = change.events.last().is_some_and(|last| last.region == origin);
            if home != origin && !is_last && !is_on(Mutant::ForeignOrdersCopied) {
                return Err(cant(format!("its home is {home}, {origin} may not write it (I-13)")));
            }
            if let Some(reference) = record.order.channel_order_ref.clone().filter(|_| is_new) {
                self.references.push((record.order.channel.clone(), reference));
            }
            records.insert(id, record);
            changed.insert(id);
            for commit in change.commits() {
                let commit = &commit[commit.partition_point(|event| event.seq <= have)..];
                if commit.is_empty() {
                    continue;
                }
                let json = to_raw_value(commit).expect("our own type always serializes");
                events.push(id, commit, json.get().to_owned());
                ours.extend_from_slice(commit);
            }
        }
        if !parted.is_empty() {
            tracing::warn!(orders = ?parted, "the home tells another history of these orders: ours is set aside");
            sqlx::query(SET_ASIDE).bind(parted).execute(&mut *connection).await?;
        }
        records.retain(|id, _| changed.contains(id));
        // The cancelled ones first: they leave their channel reference to one of the others.
        let (mut cancelled, mut standing) = (OrderColumns::default(), OrderColumns::default());
        for record in records.values() {
            let is_cancelled = record.order.status() == OrderStatus::Cancelled;
            if is_cancelled { &mut cancelled } else { &mut standing }.push(record, 0);
        }
        for columns in [cancelled, standing].iter().filter(|columns| columns.len() > 0) {
            columns.insert(encode::UPSERT_COPIES, connection).await?;
        }
        events.insert(connection).await?;
        let pairs = records.values().map(|after| (stored.get(&after.order.id), after));
        self.came_here = write_moves(connection, own, pairs.collect(), now_ms).await?;
        Ok(())
    }

    /// What is here of the orders that are told again.
    async fn histories(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<OrderId, Vec<Event>>, CopyProblem> {
        let retold = self.orders.iter().filter(|(_, change)| !change.retold.is_empty());
        let ids: Vec<Uuid> = retold.map(|(_, change)| change.order_id.0).collect();
        let mut known: BTreeMap<OrderId, Vec<Event>> = BTreeMap::new();
        if ids.is_empty() {
            return Ok(known);
        }
        let rows = sqlx::query(EVENTS_OF).bind(ids).fetch_all(connection).await?;
        for row in &rows {
            let events: Vec<Event> = from_json(row.try_get("events")?)?;
            known.entry(OrderId(row.try_get("order_id")?)).or_default().extend(events);
        }
        Ok(known)
    }

    /// The copies that are here. Also of orders that the batch begins: one that has moved is told by two homes, in any
    /// order.
    async fn stored(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<OrderId, OrderRecord>, CopyProblem> {
        let mut ids: Vec<Uuid> = self.orders.iter().map(|(_, change)| change.order_id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = sqlx::query(load::ORDERS).bind(ids).fetch_all(connection).await?;
        let by_id = |row| {
            let record = order_record(row)?;
            Ok((record.order.id, record))
        };
        rows.iter().map(by_id).collect::<Result<_, sqlx::Error>>().map_err(CopyProblem::Sql)
    }

    /// What of the batch this region may have taken as well.
    pub(super) fn claims(&self) -> Claims {
        let intents = self.intents.iter().map(|record| record.intent.clone());
        Claims { intents: intents.collect(), references: self.references.clone() }
    }
}

/// What follows here from orders that have a home elsewhere, or have come from there: this region's sagas are for its own
/// orders, and units held under its rights are given back by whoever is the home, in the moment in which that is
/// copied. Answers whether some came here.
pub(super) async fn write_moves(
    connection: &mut PgConnection,
    own: RegionId,
    orders: Vec<(Option<&OrderRecord>, &OrderRecord)>,
    now_ms: u64,
) -> Result<bool, sqlx::Error> {
    let moved: Vec<_> =
        orders.into_iter().filter(|(_, after)| after.order.moved.is_some()).collect();
    if moved.is_empty() {
        return Ok(false);
    }
    let ids = moved.iter().map(|(_, after)| after.order.id.0).collect::<Vec<_>>();
    let is_ours = |order: &&OrderRecord| order.order.home_region == own;
    let sagas: Vec<SagaRecord> = moved
        .iter()
        .map(|(_, after)| *after)
        .filter(is_ours)
        .map(|after| SagaRecord::taken_up(&after.order, now_ms))
        .collect();
    sqlx::query(DROP_SAGAS).bind(ids.clone()).execute(&mut *connection).await?;
    sagas::insert(connection, &sagas.iter().collect::<Vec<_>>()).await?;
    let placed_here = |after: &OrderRecord| after.order.placed_in() == own;
    if !moved.iter().any(|(_, after)| placed_here(after)) {
        return Ok(!sagas.is_empty());
    }
    let epoch: i32 = sqlx::query_scalar(EPOCH).fetch_one(&mut *connection).await?;
    let epoch = u32::try_from(epoch).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let owner = Actor { region: own, epoch: Epoch(epoch) };
    let given_back: Vec<Uuid> =
        sqlx::query_scalar(GIVEN_BACK).bind(ids).fetch_all(&mut *connection).await?;
    let released = moved
        .iter()
        .filter(|(_, after)| !given_back.contains(&after.order.id.0))
        .map(|(before, after)| released(*before, after, owner));
    let mut stock = StockDeltas::new();
    for (key, units) in released.flatten() {
        let delta = StockDelta { released: units, ..StockDelta::default() };
        stock.entry(key).or_default().add(delta);
    }
    give_back(connection, owner, &stock).await?;
    Ok(!sagas.is_empty())
}
