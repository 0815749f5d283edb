//! One commit: everything a group of decisions wants written, or nothing.
//!
//! Inserts come first, the stock rows last but for the outbox: two groups then meet on shared rows for
//! the shortest time (stock first costs half the throughput). Stock rows are locked in key order, the
//! outbox head after them, so no two commits wait for each other in a circle. The head's lock is held
//! until the commit is durable, which makes the sequence gap-free and its order the commits' order.

use std::borrow::Cow;
use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::IntentRecord;
use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::domain::order::Event;
use crate::escrow::order_register;
use crate::mutants::{Mutant, is_on};
use crate::ports::store::{ChangeSet, Mandate, NO_MANDATE, Needs, OrderWrite, View};
use crate::ports::{CommitError, Committed, Stamp, Store, StoreError};
use crate::replication::PAYLOAD_BYTES_MAX;
use crate::types::{Actor, HlcTimestamp, OrderId};

use super::copies::EVENTS_OF;
use super::encode::{EventColumns, OrderColumns, is_passing, signed, store_error};
use super::evacuation::STILL_MOVES;
use super::load::intent_record;
use super::registers::{of_owner, round_column};
use super::rejoin::INTENTS_OF;
use super::{Lease, PgStore, encode, sagas, within};

pub(super) const STATEMENTS: &[&str] = &[
    encode::INSERT_ORDERS,
    encode::UPSERT_COPIES,
    encode::UPDATE_ORDERS,
    encode::INSERT_EVENTS,
    UPDATE_SAGAS,
    INSERT_INTENTS,
    LOCK_PRODUCTS,
    LOCK_NODES,
    UPSERT_PRODUCTS,
    UPSERT_NODES,
    FIRST_RIGHTS,
    CHANGE_RIGHTS,
    APPEND_OUTBOX,
    IS_STOPPED,
    STILL_IN_EPOCH,
    STILL_STEWARD,
];

const UPDATE_SAGAS: &str = "
UPDATE sagas AS r
SET state = u.c, step = u.d, attempts = u.e, updated_at_ms = u.f, due_at_ms = u.g, version = u.h, document = u.i
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::text[]) AS u(a, b, c, d, e, f, g, h, i)
WHERE r.saga_id = u.a AND r.version = u.b";

/// An intent that is there already refuses the group: somebody took it since it was looked up.
pub(crate) const INSERT_INTENTS: &str = "
INSERT INTO idempotency (principal, key, region, body_hash, order_id, answer, first_at_ms)
SELECT a, b, c, d, e, f, g
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::bigint[])
     AS u(a, b, c, d, e, f, g)";

/// What was changed must still be what was read: fewer rows are a conflict.
const LOCK_PRODUCTS: &str = "
SELECT p.sku FROM products p JOIN unnest($1::text[], $2::text[]) AS u(sku, hlc) ON p.sku = u.sku AND p.hlc = u.hlc
ORDER BY p.sku FOR UPDATE OF p";

/// See [`LOCK_PRODUCTS`].
const LOCK_NODES: &str = "
SELECT n.node FROM nodes n JOIN unnest($1::text[], $2::text[]) AS u(node, hlc) ON n.node = u.node AND n.hlc = u.hlc
ORDER BY n.node FOR UPDATE OF n";

/// The last writer wins by stamp; stamps of fixed width compare as text.
pub(crate) const UPSERT_PRODUCTS: &str = "
INSERT INTO products (sku, hlc, document)
SELECT a, b, c FROM unnest($1::text[], $2::text[], $3::text[]) AS u(a, b, c)
ON CONFLICT (sku) DO UPDATE SET hlc = excluded.hlc, document = excluded.document
WHERE products.hlc < excluded.hlc";

/// See [`UPSERT_PRODUCTS`].
pub(crate) const UPSERT_NODES: &str = "
INSERT INTO nodes (node, region, active, hlc, document)
SELECT a, b, c, d, e FROM unnest($1::text[], $2::text[], $3::boolean[], $4::text[], $5::text[]) AS u(a, b, c, d, e)
ON CONFLICT (node) DO UPDATE
SET region = excluded.region, active = excluded.active, hlc = excluded.hlc, document = excluded.document
WHERE nodes.hlc < excluded.hlc";

const FIRST_RIGHTS: &str = "
INSERT INTO rights (sku, node, owner, epoch, version, ballot_region)
SELECT a, b, $1, $2, 0, $1 FROM unnest($3::text[], $4::text[]) AS u(a, b)
ON CONFLICT DO NOTHING";

/// The sale. Rows are locked in key order first; the guard is outflow <= active (escrow, inequality 1),
/// so a row that would be overdrawn is not written, and the count tells. The same goes for a stocktake
/// that was computed from another number than is on the shelf by now.
///
/// One look-up by primary key a row, whatever the planner knows of the table: joined to the list, the
/// condition on the owner alone reads the whole index while a table that was just filled has no
/// statistics, which costs five times the whole order.
const CHANGE_RIGHTS: &str = "
WITH change AS (
    SELECT * FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
        AS u(sku, node, received, spent, released, withdrawn, counted_from)
    ORDER BY sku, node
), c AS (
    SELECT change.*, l.owner, l.epoch FROM change CROSS JOIN LATERAL (
        SELECT r.owner, r.epoch FROM rights r
        WHERE r.sku = change.sku AND r.node = change.node AND r.owner = $1 AND r.epoch = $2
        LIMIT 1 FOR UPDATE
    ) AS l
)
UPDATE rights AS r
SET received = r.received + c.received, spent = r.spent + c.spent, released = r.released + c.released,
    withdrawn = r.withdrawn + c.withdrawn, version = r.version + 1
FROM c
WHERE r.sku = c.sku AND r.node = c.node AND r.owner = c.owner AND r.epoch = c.epoch
  AND r.spent + c.spent - r.released - c.released + r.withdrawn + c.withdrawn + r.granted_total <= r.ceiling
  AND r.released + c.released <= r.spent + c.spent
  AND (c.counted_from IS NULL OR c.counted_from = r.received - r.withdrawn
        + (SELECT coalesce(sum(b.received - b.withdrawn), 0) FROM rights b
           WHERE b.sku = r.sku AND b.node = r.node AND b.owner = r.owner AND b.epoch < r.epoch))";

/// No row: this incarnation is over (I-13), or there are new orders ($6) and the region was drained. The row is looked at
/// again once its lock is held, so neither is missed.
const APPEND_OUTBOX: &str = "
WITH head AS (UPDATE outbox_head SET seq = seq + 1 WHERE epoch = $1 AND NOT (is_stopped AND $6) RETURNING seq)
INSERT INTO outbox (epoch, seq, hlc, event_hash, payload, committed_at_ms)
SELECT $1, head.seq, $2, $3, $4, $5 FROM head RETURNING seq";

/// For what takes no place in the outbox. Until the commit is through, no other incarnation begins.
const STILL_IN_EPOCH: &str = "
SELECT true FROM outbox_head WHERE epoch = $1 FOR SHARE";

/// Why nothing was appended.
const IS_STOPPED: &str = "SELECT is_stopped FROM outbox_head WHERE epoch = $1";

/// Until the commit is through, nothing else is promised.
const STILL_STEWARD: &str = "
SELECT true FROM promises
WHERE owner = $1 AND epoch = $2 AND ballot_round = $3 AND ballot_region = $4 AND fenced FOR SHARE";

#[async_trait]
impl Store for PgStore {
    async fn load(&self, needs: &Needs) -> Result<View, StoreError> {
        self.load_view(needs).await.map_err(store_error)
    }

    async fn commit(&self, changes: &ChangeSet, stamp: Stamp) -> Result<Committed, CommitError> {
        let unavailable = |error: sqlx::Error| CommitError::Unavailable(error.to_string());
        let mut lease = self.lease().await.map_err(unavailable)?;
        let write = async {
            sqlx::query("BEGIN").execute(&mut *lease).await?;
            Ok(write(&mut lease, self.region.as_str(), changes, stamp).await)
        };
        match within(self.deadline, write).await.map_err(unavailable)? {
            Ok(sequence) => {
                let commit = sqlx::query("COMMIT").execute(&mut *lease);
                let unknown = |error: sqlx::Error| match error.to_string() {
                    why if is_on(Mutant::CommitErrorIsFailure) => CommitError::Unavailable(why),
                    why => CommitError::Unknown(why),
                };
                within(self.deadline, commit).await.map_err(unknown)?;
                lease.keep();
                let come_here = |write: &OrderWrite| {
                    let is_here = write.record.order.home_region == self.region;
                    is_here && write.events.iter().any(Event::is_move)
                };
                if changes.orders.values().any(come_here) {
                    self.recent_claims().moved(stamp.now_ms);
                }
                Ok(Committed { sequence })
            }
            Err(problem) => {
                roll_back(lease, self.deadline).await;
                Err(problem.into())
            }
        }
    }
}

/// Saves the connection when that is quickly done; a lease that is not kept is closed, which rolls back as well.
async fn roll_back(mut lease: Lease, deadline: std::time::Duration) {
    if within(deadline, sqlx::query("ROLLBACK").execute(&mut *lease)).await.is_ok() {
        lease.keep();
    }
}

/// Why a write inside the transaction did not go through. Nothing is committed.
enum Problem {
    Conflict(&'static str),
    Fenced,
    Draining,
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
        match code.as_deref() {
            // unique_violation: an intent, an order or a channel reference that somebody else wrote.
            Some("23505") => Self::Conflict("written by somebody else"),
            Some("40001" | "40P01") => Self::Conflict("deadlock or serialization"),
            _ => Self::Sql(error),
        }
    }
}

impl From<Problem> for CommitError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "any other fault is one of the connection")]
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Conflict(what) => Self::Conflict(what),
            Problem::Fenced => Self::Fenced,
            Problem::Draining => Self::Draining,
            Problem::Sql(error) => {
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
                match &error {
                    sqlx::Error::Database(_) if !is_passing(code.as_deref()) => {
                        Self::Broken(error.to_string())
                    }
                    _ => Self::Unavailable(error.to_string()),
                }
            }
        }
    }
}

async fn write(
    connection: &mut PgConnection,
    region: &str,
    changes: &ChangeSet,
    stamp: Stamp,
) -> Result<Option<u64>, Problem> {
    let epoch = i32::try_from(stamp.epoch.0).expect("epochs are counted by people");
    if let Some(mandate) = changes.mandate
        && !still_holds(connection, mandate).await?
    {
        return Err(Problem::Conflict(NO_MANDATE));
    }
    let payload = write_orders(connection, changes).await?;
    write_sagas(connection, changes).await?;
    insert_intents(connection, &changes.intents).await?;
    lock_seen(LOCK_PRODUCTS, connection, &changes.products_seen).await?;
    upsert_products(connection, changes.products.values()).await?;
    lock_seen(LOCK_NODES, connection, &changes.nodes_seen).await?;
    upsert_nodes(connection, changes.nodes.values()).await?;
    change_rights(connection, region, epoch, changes).await?;
    let (mut last, places) = (None, changes.places_orders());
    for payload in payload.split() {
        let sequence: Option<i64> = sqlx::query_scalar(APPEND_OUTBOX)
            .bind(epoch)
            .bind(stamp.hlc.to_string())
            .bind(hex::encode(Sha256::digest(&payload)))
            .bind(payload)
            .bind(signed(stamp.now_ms))
            .bind(places)
            .fetch_optional(&mut *connection)
            .await?;
        if sequence.is_none() && places {
            let query = sqlx::query_scalar(IS_STOPPED).bind(epoch);
            let is_stopped: Option<bool> = query.fetch_optional(&mut *connection).await?;
            if is_stopped == Some(true) {
                return Err(Problem::Draining);
            }
        }
        if sequence.is_none() && is_on(Mutant::NoEpochCheck) {
            continue;
        }
        let sequence = sequence.ok_or(Problem::Fenced)?;
        last = Some(u64::try_from(sequence).expect("sequences count up from 1"));
    }
    if last.is_none() && !is_on(Mutant::NoEpochCheck) {
        let head = sqlx::query(STILL_IN_EPOCH).bind(epoch).fetch_optional(connection).await?;
        head.ok_or(Problem::Fenced)?;
    }
    Ok(last)
}

async fn still_holds(connection: &mut PgConnection, mandate: Mandate) -> Result<bool, sqlx::Error> {
    let (query, is_needed) = match mandate {
        Mandate::Steward(of, ballot) => {
            let query = of_owner(STILL_STEWARD, order_register(of))
                .bind(round_column(ballot))
                .bind(ballot.region.as_str());
            (query, !is_on(Mutant::OutbidStewardMoves))
        }
        Mandate::Evacuation(run) => (sqlx::query(STILL_MOVES).bind(run), true),
    };
    Ok(query.fetch_optional(connection).await?.is_some() || !is_needed)
}

/// [`crate::domain::change::Payload`], borrowed.
#[derive(Default)]
struct PayloadOut<'a> {
    changes: Vec<ChangeOut<'a>>,
}

/// Where a payload is closed and the next one begun. An order of 200 lines, the largest change there
/// is, takes some 100 KiB, so that no envelope comes near what it may have.
const PAYLOAD_BYTES: usize = PAYLOAD_BYTES_MAX / 4;

impl PayloadOut<'_> {
    /// As JSON: one text nearly always, several when a group of large orders would be more than an
    /// envelope may hold. A change is never split, so each text makes sense by itself.
    fn split(&self) -> Vec<Vec<u8>> {
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for change in &self.changes {
            match texts.last_mut() {
                Some(open) if open.len() < PAYLOAD_BYTES => open.push(b','),
                _ => texts.push(b"{\"changes\":[".to_vec()),
            }
            let open = texts.last_mut().expect("there is one now");
            serde_json::to_writer(open, change).expect("our own types always serialize");
        }
        for text in &mut texts {
            text.extend_from_slice(b"]}");
        }
        texts
    }
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ChangeOut<'a> {
    Order {
        order_id: OrderId,
        #[serde(skip_serializing_if = "Option::is_none")]
        intent: Option<Cow<'a, IntentRecord>>,
        events: Box<RawValue>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        retold: Vec<usize>,
    },
    Product(&'a Product),
    Node(&'a Node),
}

async fn write_orders<'a>(
    connection: &mut PgConnection,
    changes: &'a ChangeSet,
) -> Result<PayloadOut<'a>, Problem> {
    let mut payload = PayloadOut::default();
    let (mut new, mut changed, mut events) =
        (OrderColumns::default(), OrderColumns::default(), EventColumns::default());
    // Those that are cancelled first: they leave their channel references to others of the group, here
    // and where this is copied.
    let mut writes: Vec<_> = changes.orders.iter().collect();
    writes.sort_by_key(|(_, write)| write.record.order.cancellation.is_none());
    for (order_id, OrderWrite { record, expected_version, events: made, intent }) in writes {
        let columns = if *expected_version == 0 { &mut new } else { &mut changed };
        columns.push(record, *expected_version);
        let json = serde_json::value::to_raw_value(made).expect("our own type always serializes");
        events.push(*order_id, made, json.get().to_owned());
        payload.changes.push(ChangeOut::Order {
            order_id: *order_id,
            intent: intent.as_ref().map(Cow::Borrowed),
            events: json,
            retold: Vec::new(),
        });
    }
    if changed.len() > 0
        && changed.update(connection).await? != changed.len() as u64
        && !is_on(Mutant::VersionsNotChecked)
    {
        return Err(Problem::Conflict("an order changed meanwhile"));
    }
    if new.len() > 0 {
        new.insert(encode::INSERT_ORDERS, connection).await?;
    }
    if !changes.orders.is_empty() {
        events.insert(connection).await?;
        tell_whole(connection, changes, &mut payload).await?;
    }
    payload.changes.extend(changes.products.values().map(ChangeOut::Product));
    payload.changes.extend(changes.nodes.values().map(ChangeOut::Node));
    Ok(payload)
}

/// Orders that have moved are told whole, with what was just written.
async fn tell_whole(
    connection: &mut PgConnection,
    changes: &ChangeSet,
    payload: &mut PayloadOut<'_>,
) -> Result<(), Problem> {
    let moved = changes.orders.iter().filter(|(_, write)| write.record.order.moved.is_some());
    let ids: Vec<Uuid> = moved.map(|(id, _)| id.0).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut commits: BTreeMap<OrderId, Vec<Vec<Event>>> = BTreeMap::new();
    let intents = sqlx::query(INTENTS_OF).bind(ids.clone()).fetch_all(&mut *connection).await?;
    let intents = intents.iter().map(intent_record).collect::<Result<Vec<_>, _>>()?;
    for row in sqlx::query(EVENTS_OF).bind(ids).fetch_all(connection).await? {
        let commit: Vec<Event> = encode::from_json(row.try_get("events")?)?;
        commits.entry(OrderId(row.try_get("order_id")?)).or_default().push(commit);
    }
    for change in &mut payload.changes {
        if let ChangeOut::Order { order_id, intent, events, retold } = change
            && let Some(commits) = commits.get(order_id)
        {
            let whole = serde_json::value::to_raw_value(&commits.concat());
            *events = whole.expect("our own type always serializes");
            *retold = commits.iter().map(Vec::len).collect();
            let placed = intents.iter().find(|record| record.order_id == Some(*order_id));
            *intent = placed.cloned().map(Cow::Owned);
        }
    }
    Ok(())
}

async fn write_sagas(connection: &mut PgConnection, changes: &ChangeSet) -> Result<(), Problem> {
    let (new, changed): (Vec<_>, Vec<_>) =
        changes.sagas.values().partition(|write| write.expected_version == 0);
    let new: Vec<&crate::saga::SagaRecord> = new.iter().map(|write| &write.record).collect();
    sagas::insert(connection, &new).await?;
    if !changed.is_empty() {
        let column = |of: fn(&crate::saga::SagaRecord) -> u64| -> Vec<i64> {
            changed.iter().map(|write| signed(of(&write.record))).collect()
        };
        let documents = changed.iter().map(|write| document(&write.record)).collect::<Vec<_>>();
        let expected = changed.iter().map(|write| signed(write.expected_version));
        let done = sqlx::query(UPDATE_SAGAS)
            .bind(changed.iter().map(|write| write.record.id.0).collect::<Vec<Uuid>>())
            .bind(expected.collect::<Vec<_>>())
            .bind(changed.iter().map(|write| write.record.state.as_str()).collect::<Vec<_>>())
            .bind(changed.iter().map(|write| write.record.step.as_str()).collect::<Vec<_>>())
            .bind(changed.iter().map(|write| sagas::attempts(&write.record)).collect::<Vec<_>>())
            .bind(column(|saga| saga.updated_at_ms))
            .bind(column(|saga| saga.due_at_ms))
            .bind(column(|saga| saga.version))
            .bind(documents)
            .execute(connection)
            .await?;
        let is_old = done.rows_affected() != changed.len() as u64;
        if is_old && !is_on(Mutant::VersionsNotChecked) {
            return Err(Problem::Conflict("a saga changed meanwhile"));
        }
    }
    Ok(())
}

fn document<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types always serialize")
}

/// Also used for the intents that come with copies.
pub(crate) async fn insert_intents_with(
    statement: &'static str,
    connection: &mut PgConnection,
    intents: &[IntentRecord],
) -> Result<(), sqlx::Error> {
    if intents.is_empty() {
        return Ok(());
    }
    sqlx::query(statement)
        .bind(intents.iter().map(|record| record.intent.principal.as_str()).collect::<Vec<_>>())
        .bind(intents.iter().map(|record| record.intent.key.as_str()).collect::<Vec<_>>())
        .bind(intents.iter().map(|record| record.region.as_str()).collect::<Vec<_>>())
        .bind(intents.iter().map(|record| record.body_hash.as_str()).collect::<Vec<_>>())
        .bind(intents.iter().map(|record| record.order_id.map(|id| id.0)).collect::<Vec<_>>())
        .bind(intents.iter().map(|record| record.answer.as_ref().map(document)).collect::<Vec<_>>())
        .bind(intents.iter().map(|record| signed(record.first_at_ms)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_intents(
    connection: &mut PgConnection,
    intents: &[IntentRecord],
) -> Result<(), Problem> {
    let copies = is_on(Mutant::IntentsNotUnique);
    let statement = if copies { super::copies::COPY_INTENTS } else { INSERT_INTENTS };
    Ok(insert_intents_with(statement, connection, intents).await?)
}

async fn lock_seen<K: std::fmt::Display>(
    statement: &'static str,
    connection: &mut PgConnection,
    seen: &BTreeMap<K, HlcTimestamp>,
) -> Result<(), Problem> {
    if seen.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(statement)
        .bind(seen.keys().map(ToString::to_string).collect::<Vec<_>>())
        .bind(seen.values().map(ToString::to_string).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    if rows.len() == seen.len() {
        Ok(())
    } else {
        Err(Problem::Conflict("the catalogue changed meanwhile"))
    }
}

/// Also used for products that come from other regions.
pub(crate) async fn upsert_products(
    connection: &mut PgConnection,
    products: impl ExactSizeIterator<Item = &Product> + Clone,
) -> Result<(), sqlx::Error> {
    if products.len() == 0 {
        return Ok(());
    }
    sqlx::query(UPSERT_PRODUCTS)
        .bind(products.clone().map(|product| product.sku.as_str()).collect::<Vec<_>>())
        .bind(products.clone().map(|product| product.hlc.to_string()).collect::<Vec<_>>())
        .bind(products.map(document).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Also used for nodes that come from other regions.
pub(crate) async fn upsert_nodes(
    connection: &mut PgConnection,
    nodes: impl ExactSizeIterator<Item = &Node> + Clone,
) -> Result<(), sqlx::Error> {
    if nodes.len() == 0 {
        return Ok(());
    }
    sqlx::query(UPSERT_NODES)
        .bind(nodes.clone().map(|node| node.id.as_str()).collect::<Vec<_>>())
        .bind(nodes.clone().map(|node| node.region.as_str()).collect::<Vec<_>>())
        .bind(nodes.clone().map(|node| node.active).collect::<Vec<_>>())
        .bind(nodes.clone().map(|node| node.hlc.to_string()).collect::<Vec<_>>())
        .bind(nodes.map(document).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn change_rights(
    connection: &mut PgConnection,
    region: &str,
    epoch: i32,
    changes: &ChangeSet,
) -> Result<(), Problem> {
    if changes.stock.is_empty() {
        return Ok(());
    }
    let received: Vec<_> = changes.stock.iter().filter(|(_, delta)| delta.received > 0).collect();
    if !received.is_empty() {
        sqlx::query(FIRST_RIGHTS)
            .bind(region)
            .bind(epoch)
            .bind(received.iter().map(|(key, _)| key.sku.as_str()).collect::<Vec<_>>())
            .bind(received.iter().map(|(key, _)| key.node.as_str()).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    let written = write_rights(connection, region, epoch, &changes.stock).await?;
    if written == changes.stock.len() as u64 || is_on(Mutant::UnguardedReserve) {
        Ok(())
    } else {
        Err(Problem::Conflict("stock was taken meanwhile"))
    }
}

/// Answers how many rows were written: the guard passes over the others.
async fn write_rights(
    connection: &mut PgConnection,
    region: &str,
    epoch: i32,
    stock: &StockDeltas,
) -> Result<u64, sqlx::Error> {
    let column = |of: fn(&StockDelta) -> u64| -> Vec<i64> {
        stock.values().map(|delta| signed(of(delta))).collect()
    };
    let done = sqlx::query(CHANGE_RIGHTS)
        .bind(region)
        .bind(epoch)
        .bind(stock.keys().map(|key| key.sku.as_str()).collect::<Vec<_>>())
        .bind(stock.keys().map(|key| key.node.as_str()).collect::<Vec<_>>())
        .bind(column(|delta| delta.received))
        .bind(column(|delta| delta.spent))
        .bind(column(|delta| delta.released))
        .bind(column(|delta| delta.withdrawn))
        .bind(stock.values().map(|delta| delta.counted_from.map(signed)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Gives back units that orders held which have moved to another home.
pub(crate) async fn give_back(
    connection: &mut PgConnection,
    owner: Actor,
    stock: &StockDeltas,
) -> Result<(), sqlx::Error> {
    if stock.is_empty() {
        return Ok(());
    }
    let epoch = i32::try_from(owner.epoch.0).expect("epochs are counted by people");
    let written = write_rights(connection, owner.region.as_str(), epoch, stock).await?;
    if written != stock.len() as u64 {
        tracing::error!(%owner, "units of moved orders are given back that were never taken: a bug");
    }
    Ok(())
}
