//! Beginning a new incarnation: what a database that still knows tells, and what one that forgot takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::commit::{insert_intents_with, upsert_nodes, upsert_products};
use super::copies::{COPY_INTENTS, write_moves};
use super::encode::{
    self, EventColumns, OrderColumns, from_json, order_record, parsed, signed, store_error,
    unsigned,
};
use super::load::intent_record;
use super::registers;
use super::rights::{PgRights, epoch_column, execute, keyed_row, merge};
use super::{PgStore, retirement, sagas, within};
use crate::domain::catalogue::{Node, Product};
use crate::domain::change::{Change, Payload};
use crate::domain::idempotency::IntentRecord;
use crate::domain::order::OrderRecord;
use crate::escrow::{KeyedRow, KeyedSlot, Promised, Voter};
use crate::ports::{Beginning, Learned, Learning, Mark, RejoinStore, StoreError};
use crate::replication::Position;
use crate::replication::rejoin::{History, OrderMark, Votes};
use crate::saga::SagaRecord;
use crate::types::{Actor, Epoch, HlcTimestamp, OrderId, RegionId, RegionNumber, StockKey};

pub(super) const STATEMENTS: &[&str] = &[
    INCARNATIONS,
    NOTE,
    CLOSE_WATERMARK,
    MARK,
    APPLIED,
    PROMISES,
    SLOTS,
    ROWS_OF,
    LOCK_ORDERS,
    MARKS,
    MARKS_OF,
    INTENTS_OF,
    COMMITS_OF,
    SET_ASIDE,
    REMEMBERS,
    DROP_SAGAS,
    ABANDONED,
    FORGET_TELLING,
    TELL,
    BEGIN_IDENTITY,
    BEGIN_HEAD,
];

const INCARNATIONS: &str = "SELECT region, epoch FROM incarnations";

/// Rows of an incarnation that is being ended are not being stored meanwhile ([`merge::UPSERT_COPIES`]).
const NOTE_ALONE: &str = "LOCK TABLE incarnations IN EXCLUSIVE MODE";

/// Locks the row; the one before is answered.
const NOTE: &str = "
WITH before AS (SELECT epoch FROM incarnations WHERE region = $1 FOR UPDATE), noted AS (
    INSERT INTO incarnations (region, epoch) VALUES ($1, $2)
    ON CONFLICT (region) DO UPDATE SET epoch = excluded.epoch WHERE incarnations.epoch < excluded.epoch
)
SELECT greatest(1, (SELECT epoch FROM before),
                (SELECT epoch FROM watermarks WHERE origin = $1)) AS epoch";

/// Whatever of an earlier incarnation is being applied finds the watermark elsewhere.
const CLOSE_WATERMARK: &str = "
INSERT INTO watermarks (origin, epoch, seq, hlc) VALUES ($1, $2, 0, $3)
ON CONFLICT (origin) DO UPDATE SET epoch = excluded.epoch, seq = 0 WHERE watermarks.epoch < excluded.epoch";

/// The name of the current file of the log begins with the timeline.
const MARK: &str = "
SELECT (SELECT system_identifier FROM pg_control_system())::text || '/'
           || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS database,
       h.epoch, h.seq, i.votes
FROM outbox_head h, region_identity i";

const APPLIED: &str = "SELECT epoch, seq FROM watermarks WHERE origin = $1";

const PROMISES: &str =
    "SELECT owner, epoch, ballot_round, ballot_region, fenced FROM promises ORDER BY owner, epoch";

const SLOTS: &str = "
SELECT owner, epoch, sku, node, ballot_round, ballot_region, sequence, ceiling, credits::text AS credits
FROM slots WHERE (owner, epoch, sku, node) > ($1, $2, $3, $4) ORDER BY owner, epoch, sku, node LIMIT $5";

const ROWS_OF: &str = "
SELECT sku, node, owner, epoch, version, received, granted::text AS granted, spent, released, withdrawn,
       ballot_round, ballot_region, sequence, ceiling, credits::text AS credits
FROM rights WHERE owner = $1 AND (sku, node, owner, epoch) > ($2, $3, $1, $4) AND (version > 0 OR sequence > 0)
ORDER BY sku, node, owner, epoch LIMIT $5";

/// In one order, so that two that learn at once wait for each other.
const LOCK_ORDERS: &str = "
SELECT order_id, version, chain_hash, created_hlc, updated_hlc, document
FROM orders WHERE order_id = ANY($1::uuid[]) ORDER BY order_id FOR UPDATE";

const MARKS: &str = "
SELECT order_id, version, chain_hash FROM orders
WHERE (home_region = $1 OR get_byte(uuid_send(order_id), 15) = $4) AND order_id > $2
ORDER BY order_id LIMIT $3";

const MARKS_OF: &str = "
SELECT order_id, version, chain_hash FROM orders WHERE order_id = ANY($1::uuid[]) ORDER BY order_id";

pub(super) const INTENTS_OF: &str = "
SELECT principal, key, region, body_hash, order_id, answer, first_at_ms FROM idempotency
WHERE order_id = ANY($1::uuid[])";

const COMMITS_OF: &str = "
SELECT e.order_id, e.events FROM order_events e JOIN orders o ON o.order_id = e.order_id AND ($1::text IS NULL OR o.home_region = $1)
WHERE e.order_id = ANY($2::uuid[]) ORDER BY e.order_id, e.first_seq";

pub(super) const SET_ASIDE: &str = "SELECT set_histories_aside($1)";

pub(super) const DROP_SAGAS: &str = "SELECT drop_sagas($1)";

const ABANDONED: &str = "
SELECT order_id, version, chain_hash, created_hlc, updated_hlc, document FROM orders o
WHERE home_region = $1 AND order_id > $2 AND status = 'pending'
  AND NOT EXISTS (SELECT FROM sagas s WHERE s.saga_id = o.order_id AND s.state IN ('running', 'compensating'))
ORDER BY order_id LIMIT $3";

const FORGET_TELLING: &str = "SELECT forget_telling()";

const TELL: &str = "
INSERT INTO outbox (epoch, seq, hlc, event_hash, payload, committed_at_ms)
SELECT $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5 FROM outbox WHERE epoch = $1";

/// The first process of the incarnation, and nothing is known against it.
const BEGIN_IDENTITY: &str = "
UPDATE region_identity SET epoch = $1, boots = 0, votes = 0, set_back = NULL, canary = 0,
    hlc_floor = (SELECT max(updated_hlc) FROM orders
                 WHERE home_region = region_identity.region AND substr(updated_hlc, 27) = region_identity.region)
WHERE set_back IS NOT NULL AND epoch = $2";

/// What an operator has said of the region still holds.
const BEGIN_HEAD: &str = "
UPDATE outbox_head SET epoch = $1, set_back = false, seq = (SELECT coalesce(max(seq), 0) FROM outbox WHERE epoch = $1)
WHERE epoch = $2 AND seq = $3";

/// Rows or votes in one statement.
const ROWS_PER_STATEMENT: usize = 5_000;

/// Everything at once: a hundred thousand rows a minute on a slow disk. The region serves nobody meanwhile.
pub(super) const BEGIN_DEADLINE: Duration = Duration::from_mins(5);

pub(super) const LONG_STATEMENTS: &str = "SET LOCAL statement_timeout = '60s'";

/// Opens a transaction on a connection of the store, runs `$work` on it, and commits.
macro_rules! in_transaction {
    ($store:expr, |$lease:ident| $work:expr) => {{
        let store: &PgStore = $store;
        let call = async {
            let mut $lease = store.lease().await?;
            let done = within(store.deadline, async {
                execute(&mut $lease, "BEGIN").await?;
                let done = $work;
                execute(&mut $lease, "COMMIT").await?;
                Ok(done)
            });
            let done = done.await?;
            $lease.keep();
            Ok::<_, sqlx::Error>(done)
        };
        call.await
    }};
}

/// Notes an incarnation, and answers the latest before. The first thing in its transaction: whoever stores rows holds locks of them
/// when it comes to look at the incarnations.
pub(super) async fn note(
    connection: &mut PgConnection,
    begins: Actor,
) -> Result<Epoch, sqlx::Error> {
    execute(connection, NOTE_ALONE).await?;
    let before = sqlx::query(NOTE)
        .bind(begins.region.as_str())
        .bind(epoch_column(begins))
        .fetch_one(&mut *connection)
        .await?;
    close_watermark(connection, begins).await?;
    epoch(&before)
}

async fn close_watermark(connection: &mut PgConnection, begins: Actor) -> Result<(), sqlx::Error> {
    sqlx::query(CLOSE_WATERMARK)
        .bind(begins.region.as_str())
        .bind(epoch_column(begins))
        .bind(HlcTimestamp::origin(begins.region).to_string())
        .execute(connection)
        .await?;
    Ok(())
}

#[async_trait]
impl RejoinStore for PgRights {
    async fn incarnations(&self) -> Result<BTreeMap<RegionId, Epoch>, StoreError> {
        let rows = self.store.rows(sqlx::query(INCARNATIONS)).await.map_err(store_error)?;
        let noted = rows.iter().map(|row| Ok((parsed(row, "region")?, epoch(row)?)));
        noted.collect::<Result<_, sqlx::Error>>().map_err(store_error)
    }

    async fn note_incarnation(&self, region: RegionId, begins: Epoch) -> Result<Epoch, StoreError> {
        let owner = Actor { region, epoch: begins };
        let noted = in_transaction!(&self.store, |lease| note(&mut lease, owner).await?);
        noted.map_err(store_error)
    }

    async fn mark(&self) -> Result<Mark, StoreError> {
        let read = async {
            let rows = self.store.rows(sqlx::query(MARK)).await?;
            let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
            let head = Position { epoch: epoch(row)?, sequence: unsigned(row, "seq")? };
            let voter = Voter { epoch: head.epoch, votes: unsigned(row, "votes")? };
            Ok(Mark { database: row.try_get("database")?, head, voter })
        };
        read.await.map_err(store_error)
    }

    async fn applied(&self, origin: RegionId) -> Result<Option<Position>, StoreError> {
        let read = async {
            let rows = self.store.rows(sqlx::query(APPLIED).bind(origin.as_str())).await?;
            let position =
                |row: &PgRow| Ok(Position { epoch: epoch(row)?, sequence: unsigned(row, "seq")? });
            rows.first().map(position).transpose()
        };
        read.await.map_err(store_error)
    }

    async fn votes(
        &self,
        after: Option<&(Actor, StockKey)>,
        limit: usize,
    ) -> Result<Votes, StoreError> {
        let read = async {
            let promises = match after {
                Some(_) => Vec::new(),
                None => self.store.rows(sqlx::query(PROMISES)).await?,
            };
            let slots = sqlx::query(SLOTS)
                .bind(after.map_or("", |(owner, _)| owner.region.as_str()))
                .bind(after.map_or(0, |(owner, _)| epoch_column(*owner)))
                .bind(after.map_or("", |(_, key)| key.sku.as_str()))
                .bind(after.map_or("", |(_, key)| key.node.as_str()))
                .bind(count(limit));
            let slots = self.store.rows(slots).await?;
            let promise = |row: &PgRow| Ok((registers::actor(row)?, registers::promised(row)?));
            let slot = |row: &PgRow| {
                let (key, slot) = registers::keyed_slot(row)?;
                Ok((registers::actor(row)?, KeyedSlot { key, slot }))
            };
            Ok(Votes {
                promises: promises.iter().map(promise).collect::<Result<_, sqlx::Error>>()?,
                slots: slots.iter().map(slot).collect::<Result<_, sqlx::Error>>()?,
                ..Votes::default()
            })
        };
        read.await.map_err(store_error)
    }

    async fn rows_of(
        &self,
        region: RegionId,
        after: Option<&(StockKey, Epoch)>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError> {
        let query = sqlx::query(ROWS_OF)
            .bind(region.as_str())
            .bind(after.map_or("", |(key, _)| key.sku.as_str()))
            .bind(after.map_or("", |(key, _)| key.node.as_str()))
            .bind(after.map_or(0, |(_, epoch)| epoch_column(Actor { region, epoch: *epoch })))
            .bind(count(limit));
        let rows = self.store.rows(query).await.map_err(store_error)?;
        rows.iter().map(keyed_row).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn marks(
        &self,
        of: RegionId,
        number: RegionNumber,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderMark>, StoreError> {
        let query = sqlx::query(MARKS)
            .bind(of.as_str())
            .bind(after.map_or(Uuid::nil(), |id| id.0))
            .bind(count(limit))
            .bind(i32::from(number.0.get()));
        let rows = self.store.rows(query).await.map_err(store_error)?;
        rows.iter().map(mark).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn marks_of(&self, ids: &[OrderId]) -> Result<Vec<OrderMark>, StoreError> {
        let query = sqlx::query(MARKS_OF).bind(uuids(ids));
        let rows = self.store.rows(query).await.map_err(store_error)?;
        rows.iter().map(mark).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn histories(
        &self,
        home: Option<RegionId>,
        ids: &[OrderId],
    ) -> Result<Vec<History>, StoreError> {
        let read = async {
            let home = home.map(|home| home.to_string());
            let commits = sqlx::query(COMMITS_OF).bind(home).bind(uuids(ids));
            let commits = self.store.rows(commits).await?;
            let intents = sqlx::query(INTENTS_OF).bind(uuids(ids));
            let mut intents: BTreeMap<OrderId, IntentRecord> = self
                .store
                .rows(intents)
                .await?
                .iter()
                .map(intent_record)
                .filter_map(|intent| intent.map(|it| it.order_id.map(|id| (id, it))).transpose())
                .collect::<Result<_, _>>()?;
            let mut histories: Vec<History> = Vec::new();
            for row in &commits {
                let id = OrderId(row.try_get("order_id")?);
                if histories.last().is_none_or(|last| last.id != id) {
                    let intent = intents.remove(&id);
                    histories.push(History { id, intent, commits: Vec::new() });
                }
                let last = histories.last_mut().expect("there is one now");
                last.commits.push(from_json(row.try_get("events")?)?);
            }
            Ok(histories)
        };
        read.await.map_err(store_error)
    }

    async fn learn(&self, orders: &[Learned], now_ms: u64) -> Result<Learning, StoreError> {
        let learned = in_transaction!(&self.store, |lease| {
            write_learned(&mut lease, self.own.region, orders, now_ms).await?
        });
        match learned {
            Ok(learning) => Ok(learning),
            // A reference that another order still stands under.
            Err(sqlx::Error::Database(error))
                if error.constraint() == Some("orders_by_channel_ref") =>
            {
                Ok(Learning::PutOff)
            }
            Err(error) => Err(store_error(error)),
        }
    }

    async fn abandoned(
        &self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        let query = sqlx::query(ABANDONED)
            .bind(self.own.region.as_str())
            .bind(after.map_or(Uuid::nil(), |id| id.0))
            .bind(count(limit));
        let rows = self.store.rows(query).await.map_err(store_error)?;
        rows.iter().map(order_record).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn add_sagas(&self, sagas: &[SagaRecord]) -> Result<(), StoreError> {
        let added = in_transaction!(&self.store, |lease| replace_sagas(&mut lease, sagas).await?);
        added.map_err(store_error)
    }

    async fn take_catalogue(&self, products: &[Product], nodes: &[Node]) -> Result<(), StoreError> {
        let taken = in_transaction!(&self.store, |lease| {
            upsert_products(&mut lease, products.iter()).await?;
            upsert_nodes(&mut lease, nodes.iter()).await?;
        });
        taken.map_err(store_error)
    }

    async fn forget_telling(&self) -> Result<(), StoreError> {
        let done = self.store.rows(sqlx::query(FORGET_TELLING)).await;
        done.map(|_| ()).map_err(store_error)
    }

    async fn tell(
        &self,
        epoch: Epoch,
        changes: Vec<Change>,
        hlc: HlcTimestamp,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let payload = serde_json::to_vec(&Payload { changes }).expect("our own types serialize");
        let owner = Actor { epoch, ..self.own };
        let query = sqlx::query(TELL)
            .bind(epoch_column(owner))
            .bind(hlc.to_string())
            .bind(hex::encode(Sha256::digest(&payload)))
            .bind(payload)
            .bind(signed(now_ms));
        self.store.rows(query).await.map(|_| ()).map_err(store_error)
    }

    async fn begin(&self, beginning: &Beginning) -> Result<bool, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let begun = within(BEGIN_DEADLINE, async {
                execute(&mut lease, "BEGIN").await?;
                execute(&mut lease, LONG_STATEMENTS).await?;
                let begun = begin(&mut lease, self.own, beginning).await?;
                execute(&mut lease, if begun { "COMMIT" } else { "ROLLBACK" }).await?;
                Ok(begun)
            });
            let begun = begun.await?;
            lease.keep();
            Ok(begun)
        };
        call.await.map_err(store_error)
    }
}

/// A region whose database was set back buries its rows, and gives nothing back under them.
const REMEMBERS: &str = "SELECT set_back IS NULL FROM region_identity";

async fn write_learned(
    connection: &mut PgConnection,
    own: RegionId,
    orders: &[Learned],
    now_ms: u64,
) -> Result<Learning, sqlx::Error> {
    let all = orders.iter().map(|it| it.record.order.id.0).collect::<Vec<_>>();
    let rows = sqlx::query(LOCK_ORDERS).bind(all).fetch_all(&mut *connection).await?;
    let stored = rows.iter().map(order_record);
    let stored = stored
        .map(|record| record.map(|record| (record.order.id, record)))
        .collect::<Result<BTreeMap<OrderId, OrderRecord>, _>>()?;
    for Learned { record, known, .. } in orders {
        let id = record.order.id;
        if stored.get(&id).map_or(0, |stored| stored.version) != *known {
            return Ok(Learning::Changed(id));
        }
    }
    let ids = |of: fn(&Learned) -> bool| -> Vec<Uuid> {
        orders.iter().filter(|it| of(it)).map(|it| it.record.order.id.0).collect()
    };
    sqlx::query(SET_ASIDE).bind(ids(|it| it.replaces)).execute(&mut *connection).await?;
    sqlx::query(DROP_SAGAS).bind(ids(|_| true)).execute(&mut *connection).await?;
    // The cancelled ones first: they leave their channel reference to one of the others.
    let (mut cancelled, mut standing) = (OrderColumns::default(), OrderColumns::default());
    let mut events = EventColumns::default();
    for Learned { record, commits, .. } in orders {
        let is_cancelled = record.order.cancellation.is_some();
        if is_cancelled { &mut cancelled } else { &mut standing }.push(record, 0);
        for commit in commits {
            let json = serde_json::to_string(commit).expect("our own type always serializes");
            events.push(record.order.id, commit, json);
        }
    }
    for columns in [cancelled, standing].iter().filter(|columns| columns.len() > 0) {
        columns.insert(encode::UPSERT_COPIES, connection).await?;
    }
    events.insert(connection).await?;
    let intents: Vec<IntentRecord> = orders.iter().filter_map(|it| it.intent.clone()).collect();
    insert_intents_with(COPY_INTENTS, connection, &intents).await?;
    let remembers: bool = sqlx::query_scalar(REMEMBERS).fetch_one(&mut *connection).await?;
    let follows = |it: &&Learned| remembers && it.record.order.moved.is_some();
    let (moved, rest): (Vec<&Learned>, Vec<&Learned>) = orders.iter().partition(follows);
    let sagas: Vec<&SagaRecord> = rest.iter().filter_map(|it| it.saga.as_ref()).collect();
    sagas::insert(connection, &sagas).await?;
    let pairs = moved.iter().map(|it| (stored.get(&it.record.order.id), &it.record));
    write_moves(connection, own, pairs.collect(), now_ms).await?;
    Ok(Learning::Done)
}

async fn replace_sagas(
    connection: &mut PgConnection,
    sagas: &[SagaRecord],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = sagas.iter().map(|saga| saga.id.0).collect();
    sqlx::query(DROP_SAGAS).bind(ids).execute(&mut *connection).await?;
    sagas::insert(connection, &sagas.iter().collect::<Vec<_>>()).await
}

/// Locks as votes and sales do, the promises and rows before the identity and the head; what guards it comes last. The incarnations
/// are noted alone, as by [`note`]: else another process of this region, which had looked at them before, could store a row of one
/// that is over for everybody else. Behind the rows, since whoever stores some holds locks of them when it comes to look.
async fn begin(
    connection: &mut PgConnection,
    before: Actor,
    beginning: &Beginning,
) -> Result<bool, sqlx::Error> {
    let (own, votes) = (Actor { epoch: beginning.epoch, ..before }, &beginning.votes);
    take_votes(connection, beginning).await?;
    for rows in beginning.rows.chunks(ROWS_PER_STATEMENT) {
        let rows: Vec<&KeyedRow> = rows.iter().collect();
        merge::upsert_copies(connection, own, &rows).await?;
    }
    execute(connection, NOTE_ALONE).await?;
    let noted = votes.incarnations.iter().filter(|(region, _)| **region != own.region);
    let noted = noted.map(|(region, epoch)| Actor { region: *region, epoch: *epoch });
    for actor in noted.chain([own]) {
        sqlx::query(NOTE)
            .bind(actor.region.as_str())
            .bind(epoch_column(actor))
            .fetch_one(&mut *connection)
            .await?;
    }
    for (&region, &epoch) in &beginning.gone {
        close_watermark(connection, Actor { region, epoch }).await?;
    }
    for retirement in &votes.retirements {
        retirement::keep(connection, retirement).await?;
    }
    registers::keep_voters(connection, &votes.others(own.region)).await?;
    let identity = sqlx::query(BEGIN_IDENTITY)
        .bind(epoch_column(own))
        .bind(epoch_column(before))
        .execute(&mut *connection)
        .await?;
    let head = sqlx::query(BEGIN_HEAD)
        .bind(epoch_column(own))
        .bind(epoch_column(Actor { epoch: beginning.follows.epoch, ..before }))
        .bind(signed(beginning.follows.sequence))
        .execute(connection)
        .await?;
    Ok(head.rows_affected() == 1 && identity.rows_affected() == 1)
}

async fn take_votes(
    connection: &mut PgConnection,
    beginning: &Beginning,
) -> Result<(), sqlx::Error> {
    let mut promises: BTreeMap<Actor, Promised> = BTreeMap::new();
    for (owner, promised) in &beginning.votes.promises {
        let kept = promises.entry(*owner).or_insert(*promised);
        *kept = kept.later(*promised);
    }
    let mut slots: BTreeMap<Actor, BTreeMap<&StockKey, &KeyedSlot>> = BTreeMap::new();
    for (owner, slot) in &beginning.votes.slots {
        let of_owner = slots.entry(*owner).or_default();
        let known = of_owner.entry(&slot.key).or_insert(slot);
        if known.slot.place() < slot.slot.place() {
            *known = slot;
        }
    }
    let owners: BTreeSet<Actor> = promises.keys().chain(slots.keys()).copied().collect();
    for owner in owners {
        let known = registers::lock_promise(connection, owner).await?;
        let promised = promises.get(&owner).map_or(known, |told| known.later(*told));
        registers::keep_promise(connection, owner, promised).await?;
        let told: Vec<&KeyedSlot> =
            slots.remove(&owner).unwrap_or_default().into_values().collect();
        for told in told.chunks(ROWS_PER_STATEMENT) {
            let keys: BTreeSet<&StockKey> = told.iter().map(|slot| &slot.key).collect();
            let held = registers::read_slots(connection, owner, &keys).await?;
            let is_newer = |slot: &&&KeyedSlot| {
                held.get(&slot.key).is_none_or(|held| held.place() < slot.slot.place())
            };
            let newer: Vec<&KeyedSlot> = told.iter().filter(is_newer).copied().collect();
            registers::keep_slots(connection, owner, &newer).await?;
        }
    }
    Ok(())
}

fn mark(row: &PgRow) -> Result<OrderMark, sqlx::Error> {
    Ok(OrderMark {
        id: OrderId(row.try_get("order_id")?),
        version: unsigned(row, "version")?,
        chain_hash: row.try_get("chain_hash")?,
    })
}

fn epoch(row: &PgRow) -> Result<Epoch, sqlx::Error> {
    let epoch: i32 = row.try_get("epoch")?;
    u32::try_from(epoch).map(Epoch).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn uuids(ids: &[OrderId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
