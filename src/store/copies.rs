//! Copies of what other regions wrote: reads payloads, folds events, writes rows.
//!
//! The copy of an order is the fold of its events, made here again from the copy before (I-19): an
//! event that doesn't continue the chain, or whose fold leaves another status than its home says, is
//! refused, and with it the whole batch. So a copy is right or it stands still with an alert; it is
//! never quietly different.

use std::collections::BTreeMap;

use serde_json::value::to_raw_value;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::domain::catalogue::{Node, Product};
use crate::domain::change::{Change, OrderChange, Payload};
use crate::domain::idempotency::IntentRecord;
use crate::domain::order::{Event, OrderRecord, OrderStatus, Relation, fold_copy, relate};
use crate::mutants::{Mutant, is_on};
use crate::replication::{Envelope, Position};
use crate::types::{NodeId, OrderId, RegionId, Sku};

use super::commit::{insert_intents_with, upsert_nodes, upsert_products};
use super::contests::{self, Claims};
use super::encode::{self, EventColumns, OrderColumns, from_json, order_record};
use super::load;
use super::rejoin::SET_ASIDE;

pub(super) const STATEMENTS: &[&str] = &[COPY_INTENTS, EVENTS_OF];

/// An intent that was copied already stays as it is.
pub(super) const COPY_INTENTS: &str = "
INSERT INTO idempotency (principal, key, region, body_hash, order_id, answer, first_at_ms)
SELECT a, b, c, d, e, f, g
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::bigint[])
     AS u(a, b, c, d, e, f, g)
ON CONFLICT DO NOTHING";

const EVENTS_OF: &str = "
SELECT order_id, events FROM order_events WHERE order_id = ANY($1::uuid[]) ORDER BY order_id, first_seq";

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
    ) -> Result<(), CopyProblem> {
        self.write_orders(connection, origin).await?;
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
        origin: RegionId,
    ) -> Result<(), CopyProblem> {
        if self.orders.is_empty() {
            return Ok(());
        }
        let mut records = self.stored(connection).await?;
        let mut known = self.histories(connection).await?;
        let (mut events, mut parted) = (EventColumns::default(), Vec::new());
        for (position, change) in &self.orders {
            let cant = |reason: String| CopyProblem::CantApply {
                position: *position,
                reason: format!("order {}: {reason}", change.order_id),
            };
            let mut before = records.remove(&change.order_id);
            let is_new = before.is_none();
            let mut commits = change.commits();
            if !change.retold.is_empty() {
                let ours = known.remove(&change.order_id).unwrap_or_default();
                match relate(&ours, &change.events) {
                    Relation::Same | Relation::WeKnowMore => commits.clear(),
                    Relation::TheyKnowMore => {
                        let is_known = |event: &Event| event.seq <= ours.len() as u64;
                        for commit in &mut commits {
                            *commit = &commit[commit.partition_point(is_known)..];
                        }
                        commits.retain(|commit| !commit.is_empty());
                    }
                    Relation::Parted => {
                        before = None;
                        parted.push(change.order_id.0);
                    }
                }
            }
            let retold;
            let new = if change.retold.is_empty() {
                &change.events
            } else {
                retold = commits.concat();
                &retold
            };
            let record = fold_copy(before, change.order_id, new)
                .map_err(|error| cant(error.to_string()))?
                .ok_or_else(|| cant("no events".to_owned()))?;
            if record.order.home_region != origin && !is_on(Mutant::ForeignOrdersCopied) {
                let home = record.order.home_region;
                return Err(cant(format!("its home is {home}, {origin} may not write it (I-13)")));
            }
            if let Some(reference) = record.order.channel_order_ref.clone().filter(|_| is_new) {
                self.references.push((record.order.channel.clone(), reference));
            }
            records.insert(change.order_id, record);
            for commit in commits {
                let json = to_raw_value(commit).expect("our own type always serializes");
                events.push(change.order_id, commit, json.get().to_owned());
            }
        }
        if !parted.is_empty() {
            tracing::warn!(orders = ?parted, "the home tells another history of these orders: ours is set aside");
            sqlx::query(SET_ASIDE).bind(parted).execute(&mut *connection).await?;
        }
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

    /// The copies that the batch continues. New orders need not be looked for.
    async fn stored(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<OrderId, OrderRecord>, CopyProblem> {
        let continued = self.orders.iter().filter_map(|(_, change)| {
            let first = change.events.first()?;
            (first.seq > 1 || !change.retold.is_empty()).then_some(change.order_id.0)
        });
        let mut ids: Vec<Uuid> = continued.collect();
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
