//! Copies of what other regions wrote: reads payloads, folds events, writes rows.
//!
//! The copy of an order is the fold of its events, made here again from the copy before (I-19): an
//! event that doesn't continue the chain, or whose fold leaves another status than its home says, is
//! refused, and with it the whole batch. So a copy is right or it stands still with an alert; it is
//! never quietly different.

use std::collections::{BTreeMap, VecDeque};

use serde_json::value::to_raw_value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::catalogue::{Node, Product};
use crate::domain::change::{Change, OrderChange, Payload};
use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::order::{OrderRecord, fold_copy};
use crate::replication::{Envelope, Position};
use crate::types::{NodeId, OrderId, RegionId, Sku};

use super::commit::{insert_intents_with, upsert_nodes, upsert_products};
use super::encode::{self, EventColumns, OrderColumns, order_record};
use super::load;

pub(super) const STATEMENTS: &[&str] = &[COPY_INTENTS, CONTEST, CONTEST_ALL];

/// An intent that was copied already stays as it is.
const COPY_INTENTS: &str = "
INSERT INTO idempotency (principal, key, region, body_hash, order_id, answer, first_at_ms)
SELECT a, b, c, d, e, f::json, g
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::bigint[])
     AS u(a, b, c, d, e, f, g)
ON CONFLICT DO NOTHING";

/// Two regions took the same intent and each made an order of it: to be settled.
const CONTEST: &str = "
INSERT INTO contested (order_id, other_order_id)
SELECT own.order_id, other.order_id
FROM unnest($2::text[], $3::text[]) AS u(principal, key)
JOIN idempotency own ON own.principal = u.principal AND own.key = u.key AND own.region = $1
JOIN idempotency other ON other.principal = u.principal AND other.key = u.key AND other.region <> $1
WHERE own.order_id IS NOT NULL AND other.order_id IS NOT NULL
ON CONFLICT DO NOTHING";

/// The same over everything, once at each start.
const CONTEST_ALL: &str = "
INSERT INTO contested (order_id, other_order_id)
SELECT own.order_id, other.order_id
FROM idempotency own
JOIN idempotency other ON other.principal = own.principal AND other.key = own.key AND other.region <> $1
WHERE own.region = $1 AND own.order_id IS NOT NULL AND other.order_id IS NOT NULL
ON CONFLICT DO NOTHING";

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
        &self,
        connection: &mut PgConnection,
        own: RegionId,
        origin: RegionId,
    ) -> Result<(), CopyProblem> {
        self.write_orders(connection, origin).await?;
        insert_intents_with(COPY_INTENTS, connection, &self.intents).await?;
        self.contest(connection, own).await?;
        upsert_products(connection, self.products.values()).await?;
        upsert_nodes(connection, self.nodes.values()).await?;
        Ok(())
    }

    async fn write_orders(
        &self,
        connection: &mut PgConnection,
        origin: RegionId,
    ) -> Result<(), CopyProblem> {
        if self.orders.is_empty() {
            return Ok(());
        }
        let mut records = self.stored(connection).await?;
        let mut events = EventColumns::default();
        for (position, change) in &self.orders {
            let cant = |reason: String| CopyProblem::CantApply {
                position: *position,
                reason: format!("order {}: {reason}", change.order_id),
            };
            let before = records.remove(&change.order_id);
            let record = fold_copy(before, change.order_id, &change.events)
                .map_err(|error| cant(error.to_string()))?
                .ok_or_else(|| cant("no events".to_owned()))?;
            if record.order.home_region != origin {
                let home = record.order.home_region;
                return Err(cant(format!("its home is {home}, {origin} may not write it (I-13)")));
            }
            records.insert(change.order_id, record);
            let json = to_raw_value(&change.events).expect("our own type always serializes");
            events.push(change.order_id, &change.events, json.get().to_owned());
        }
        let mut columns = OrderColumns::default();
        for record in records.values() {
            columns.push(record, 0);
        }
        columns.insert(encode::UPSERT_COPIES, connection).await?;
        events.insert(connection).await?;
        Ok(())
    }

    /// The copies that the batch continues. New orders need not be looked for.
    async fn stored(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<OrderId, OrderRecord>, CopyProblem> {
        let continued = self.orders.iter().filter_map(|(_, change)| {
            let first = change.events.first()?;
            (first.seq > 1).then_some(change.order_id.0)
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

    /// Finds intents that this region took as well, as far as their commits can be seen by now.
    async fn contest(
        &self,
        connection: &mut PgConnection,
        own: RegionId,
    ) -> Result<(), sqlx::Error> {
        let keys: Vec<_> = self.intents.iter().map(|record| &record.intent).collect();
        contest(connection, own, &keys).await
    }

    /// The intents of the batch, to be looked at once more.
    pub(super) fn into_intents(self) -> Vec<IntentKey> {
        self.intents.into_iter().map(|record| record.intent).collect()
    }
}

async fn contest(
    connection: &mut PgConnection,
    own: RegionId,
    keys: &[&IntentKey],
) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(CONTEST)
        .bind(own.as_str())
        .bind(keys.iter().map(|intent| intent.principal.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|intent| intent.key.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Intents that were copied lately.
///
/// This region may take an intent in the very moment in which another region's record of it is
/// copied: neither transaction sees the other, and neither finds the contest. So copied intents are
/// looked at again when every transaction of that moment has ended. What a crash makes us forget is
/// found by a look at everything at the next start.
#[derive(Debug, Default)]
pub(super) struct RecentIntents {
    all_were_seen: bool,
    all_not_before_ms: u64,
    copied: VecDeque<(u64, Vec<IntentKey>)>,
}

/// How long a commit that was under way when an intent was copied may stay invisible: every
/// statement and every idle transaction is ended by the server after 10 s.
const VISIBLE_AFTER_MS: u64 = 15_000;

/// Between two looks at everything, when one failed: it reads the whole table.
const ALL_AGAIN_MS: u64 = 600_000;

impl RecentIntents {
    pub(super) fn copied(&mut self, intents: Vec<IntentKey>, now_ms: u64) {
        if !intents.is_empty() {
            self.copied.push_back((now_ms, intents));
        }
    }

    /// What is to be looked at now.
    pub(super) fn due(&mut self, now_ms: u64) -> Look {
        if !self.all_were_seen && now_ms >= self.all_not_before_ms {
            self.all_not_before_ms = now_ms.saturating_add(ALL_AGAIN_MS);
            return Look::All;
        }
        let mut due = Vec::new();
        while let Some((at_ms, _)) = self.copied.front() {
            // A wall clock that was set back makes it a later look, not none.
            if at_ms.abs_diff(now_ms) < VISIBLE_AFTER_MS {
                break;
            }
            due.extend(self.copied.pop_front().map(|(_, intents)| intents).unwrap_or_default());
        }
        Look::At(due)
    }

    /// The look failed: it is due again.
    pub(super) fn failed(&mut self, look: Look) {
        if let Look::At(intents) = look
            && !intents.is_empty()
        {
            self.copied.push_front((0, intents));
        }
    }

    pub(super) fn done(&mut self, look: &Look) {
        self.all_were_seen |= matches!(look, Look::All);
    }
}

/// Which intents are looked at again.
#[derive(Debug)]
pub(super) enum Look {
    All,
    At(Vec<IntentKey>),
}

impl Look {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::At(intents) if intents.is_empty())
    }

    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        own: RegionId,
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::All => {
                sqlx::query(CONTEST_ALL).bind(own.as_str()).execute(connection).await?;
                Ok(())
            }
            Self::At(intents) => {
                contest(connection, own, &intents.iter().collect::<Vec<_>>()).await
            }
        }
    }
}
