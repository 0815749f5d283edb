//! The registers of ceilings: this database as an acceptor, and what it knows to be chosen.
//!
//! Every answer is decided by the pure functions of [`crate::escrow`] under the lock of the owner's promise,
//! and committed before it is given. These tables and the rights rows are locked in one transaction only where an
//! incarnation begins.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::encode::{from_json, parsed, signed, store_error, unsigned};
use super::rights::{PgRights, epoch_column, execute, nodes, skus, units_json};
use super::within;
use crate::escrow::{
    Accept, Acceptance, Accepted, Ballot, KeyedSlot, Prepare, Promise, Promised, Slot, Stewardship,
    Value, Voted, Voter, Voters, answer_accept, order_register, steward_key,
};
use crate::ports::{RegisterStore, StoreError};
use crate::types::{Actor, Epoch, RegionId, StockKey};

/// Every statement of this module.
pub(super) const STATEMENTS: &[&str] = &[
    PROMISED,
    FIRST_PROMISE,
    LOCK_PROMISE,
    KEEP_PROMISE,
    CONTESTED,
    SLOTS_OF_KEYS,
    KEEP_SLOTS,
    FENCED,
    LATEST,
    COUNT_VOTE,
    KEEP_VOTERS,
    VOTERS,
    KEEP_GONE,
    IS_GONE,
];

const PROMISED: &str = "
SELECT ballot_round, ballot_region, fenced FROM promises WHERE owner = $1 AND epoch = $2";

/// Of an owner that nobody has asked about: its own ballot of birth.
const FIRST_PROMISE: &str = "
INSERT INTO promises (owner, epoch, ballot_round, ballot_region) VALUES ($1, $2, 0, $1) ON CONFLICT DO NOTHING";

const LOCK_PROMISE: &str = "
SELECT ballot_round, ballot_region, fenced FROM promises WHERE owner = $1 AND epoch = $2 FOR UPDATE";

const KEEP_PROMISE: &str = "
UPDATE promises SET ballot_round = $3, ballot_region = $4, fenced = $5 WHERE owner = $1 AND epoch = $2";

const CONTESTED: &str = "
SELECT EXISTS (SELECT FROM slots WHERE owner = $1 AND epoch = $2 AND ballot_region <> owner)";

const SLOTS_OF_KEYS: &str = "
SELECT s.sku, s.node, s.ballot_round, s.ballot_region, s.sequence, s.ceiling, s.credits::text AS credits
FROM slots s JOIN unnest($3::text[], $4::text[]) AS u(sku, node) ON s.sku = u.sku AND s.node = u.node
WHERE s.owner = $1 AND s.epoch = $2";

/// Decided under the lock of the promise: what is stored is older.
const KEEP_SLOTS: &str = "
INSERT INTO slots AS s (owner, epoch, sku, node, ballot_round, ballot_region, sequence, ceiling, credits)
SELECT $1, $2, a, b, c, d, e, f, g::jsonb
FROM unnest($3::text[], $4::text[], $5::integer[], $6::text[], $7::bigint[], $8::bigint[], $9::text[])
     AS u(a, b, c, d, e, f, g)
ON CONFLICT (owner, epoch, sku, node) DO UPDATE
SET ballot_round = excluded.ballot_round, ballot_region = excluded.ballot_region, sequence = excluded.sequence,
    ceiling = excluded.ceiling, credits = excluded.credits";

const FENCED: &str = "SELECT owner, epoch FROM promises WHERE fenced";

/// Last in its transaction: votes of several owners wait for each other here.
const COUNT_VOTE: &str = "UPDATE region_identity SET votes = votes + 1 RETURNING votes";

/// Last in its transaction, and in one order. Nothing is written or locked where no more is known; what another transaction has
/// written since that was looked up is compared once more.
const KEEP_VOTERS: &str = "
INSERT INTO voters AS v (region, epoch, votes)
SELECT a, b, c FROM unnest($1::text[], $2::integer[], $3::bigint[]) AS u(a, b, c)
WHERE NOT EXISTS (SELECT FROM voters AS known WHERE known.region = a AND (known.epoch, known.votes) >= (b, c)) ORDER BY a
ON CONFLICT (region) DO UPDATE SET epoch = excluded.epoch, votes = excluded.votes
WHERE (v.epoch, v.votes) < (excluded.epoch, excluded.votes)";

const VOTERS: &str = "SELECT region, epoch, votes FROM voters";

const KEEP_GONE: &str = "
INSERT INTO gone (region, ballot_round, ballot_region) VALUES ($1, $2, $3)
ON CONFLICT (region) DO UPDATE SET ballot_round = excluded.ballot_round, ballot_region = excluded.ballot_region";

const IS_GONE: &str = "
SELECT EXISTS (SELECT FROM gone WHERE region = $1 AND ballot_round = $2 AND ballot_region = $3)";

const LATEST: &str = "
SELECT coalesce(max(epoch), 1)
FROM (SELECT epoch FROM promises WHERE owner = $1 AND epoch > 0 UNION ALL SELECT epoch FROM watermarks WHERE origin = $1
      UNION ALL SELECT epoch FROM incarnations WHERE region = $1) AS known";

#[async_trait]
impl RegisterStore for PgRights {
    async fn promised(&self, owner: Actor) -> Result<Ballot, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let query = of_owner(PROMISED, owner).fetch_optional(&mut *lease);
            let row = within(self.store.deadline, query).await?;
            lease.keep();
            row.as_ref().map(promised).transpose()
        };
        let promised: Option<Promised> = call.await.map_err(store_error)?;
        Ok(promised.map_or_else(|| Ballot::birth(owner.region), |promised| promised.ballot))
    }

    async fn prepare(&self, request: &Prepare) -> Result<Voted<Promise>, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let answer = within(self.store.deadline, async {
                execute(&mut lease, "BEGIN").await?;
                let answer = prepare(&mut lease, request).await?;
                let votes = sqlx::query(COUNT_VOTE).fetch_one(&mut *lease).await?;
                let votes = unsigned(&votes, "votes")?;
                execute(&mut lease, "COMMIT").await?;
                Ok(Voted { voter: Voter { epoch: self.own.epoch, votes }, answer })
            });
            let answer = answer.await?;
            lease.keep();
            Ok(answer)
        };
        call.await.map_err(store_error)
    }

    async fn accept(&self, request: &Accept) -> Result<Voted<Accepted>, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let answer = within(self.store.deadline, async {
                execute(&mut lease, "BEGIN").await?;
                let answer = accept(&mut lease, request).await?;
                let votes = sqlx::query(COUNT_VOTE).fetch_one(&mut *lease).await?;
                let votes = unsigned(&votes, "votes")?;
                execute(&mut lease, "COMMIT").await?;
                Ok(Voted { voter: Voter { epoch: self.own.epoch, votes }, answer })
            });
            let answer = answer.await?;
            lease.keep();
            Ok(answer)
        };
        call.await.map_err(store_error)
    }

    async fn choose(
        &self,
        owner: Actor,
        chosen: &[KeyedSlot],
        voters: &Voters,
    ) -> Result<(), StoreError> {
        self.choose_values(owner, chosen, voters).await.map_err(store_error)
    }

    async fn note_voters(&self, voters: &Voters) -> Result<(), StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            within(self.store.deadline, keep_voters(&mut lease, voters)).await?;
            lease.keep();
            Ok(())
        };
        call.await.map_err(store_error)
    }

    async fn voters(&self) -> Result<Voters, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let rows = within(self.store.deadline, sqlx::query(VOTERS).fetch_all(&mut *lease));
            let rows = rows.await?;
            lease.keep();
            let voter = |row: &PgRow| {
                let voter = Voter { epoch: epoch_of(row)?, votes: unsigned(row, "votes")? };
                Ok((parsed(row, "region")?, voter))
            };
            rows.iter().map(voter).collect::<Result<Voters, sqlx::Error>>()
        };
        call.await.map_err(store_error)
    }

    async fn latest(&self, region: RegionId) -> Result<Epoch, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let query = sqlx::query_scalar(LATEST).bind(region.as_str()).fetch_one(&mut *lease);
            let epoch: i32 = within(self.store.deadline, query).await?;
            lease.keep();
            u32::try_from(epoch).map_err(|error| sqlx::Error::Decode(Box::new(error)))
        };
        call.await.map(Epoch).map_err(store_error)
    }

    async fn stewardship(&self, region: RegionId) -> Result<Stewardship, StoreError> {
        let owner = order_register(region);
        let call = async {
            let mut lease = self.store.lease().await?;
            let read = within(self.store.deadline, async {
                let row = of_owner(PROMISED, owner).fetch_optional(&mut *lease).await?;
                let key = steward_key();
                let mut slots = read_slots(&mut lease, owner, &[&key].into()).await?;
                let promised = row.as_ref().map(promised).transpose()?;
                let promised = promised.unwrap_or_else(|| Promised::birth(region));
                Ok(Stewardship { promised, slot: slots.remove(&key) })
            });
            let read = read.await?;
            lease.keep();
            Ok(read)
        };
        call.await.map_err(store_error)
    }

    async fn fenced(&self) -> Result<BTreeSet<Actor>, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let rows = within(self.store.deadline, sqlx::query(FENCED).fetch_all(&mut *lease));
            let rows = rows.await?;
            lease.keep();
            rows.iter().map(actor).collect::<Result<BTreeSet<Actor>, sqlx::Error>>()
        };
        call.await.map_err(store_error)
    }

    async fn keep_gone(&self, region: RegionId, ballot: Ballot) -> Result<(), StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let query = of_fence(KEEP_GONE, region, ballot).execute(&mut *lease);
            within(self.store.deadline, query).await?;
            lease.keep();
            Ok(())
        };
        call.await.map_err(store_error)
    }

    async fn is_gone(&self, region: RegionId, ballot: Ballot) -> Result<bool, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let query = of_fence(IS_GONE, region, ballot).fetch_one(&mut *lease);
            let row = within(self.store.deadline, query).await?;
            lease.keep();
            row.try_get(0)
        };
        call.await.map_err(store_error)
    }
}

fn of_fence(statement: &'static str, region: RegionId, ballot: Ballot) -> Query<'static> {
    let query = sqlx::query(statement).bind(region.as_str().to_owned());
    query.bind(round_column(ballot)).bind(ballot.region.as_str().to_owned())
}

async fn prepare(connection: &mut PgConnection, request: &Prepare) -> Result<Promise, sqlx::Error> {
    let owner = request.owner;
    let known = lock_promise(connection, owner).await?;
    let promised = match known.answer(owner.region, request.ballot, request.purpose) {
        Ok(promised) => promised,
        Err(preempted) => return Ok(Promise::Refused { preempted, fenced: known.fenced }),
    };
    keep_promise(connection, owner, promised).await?;
    let contested = of_owner(CONTESTED, owner).fetch_one(&mut *connection).await?.try_get(0)?;
    let keys: BTreeSet<&StockKey> = request.keys.iter().collect();
    let slots = read_slots(connection, owner, &keys).await?;
    let slots = slots.into_iter().map(|(key, slot)| KeyedSlot { key, slot }).collect();
    Ok(Promise::Promised { fenced: promised.fenced, contested, slots })
}

async fn accept(connection: &mut PgConnection, request: &Accept) -> Result<Accepted, sqlx::Error> {
    let owner = request.owner;
    let known = lock_promise(connection, owner).await?;
    let keys: BTreeSet<&StockKey> = request.slots.iter().map(|slot| &slot.key).collect();
    let held = read_slots(connection, owner, &keys).await?;
    let (mut stored, mut forked, mut newer) = (Vec::new(), Vec::new(), Vec::new());
    for proposed in &request.slots {
        let birth = Slot::birth(owner.region);
        let held = held.get(&proposed.key).unwrap_or(&birth);
        match answer_accept(known.ballot, held, &proposed.slot) {
            Acceptance::Store => {
                newer.push(proposed);
                stored.push(proposed.key.clone());
            }
            Acceptance::Stored => stored.push(proposed.key.clone()),
            Acceptance::Replaced => {}
            Acceptance::Forked => forked.push(proposed.key.clone()),
            Acceptance::Preempted(preempted) => {
                return Ok(Accepted::Refused { preempted, fenced: known.fenced });
            }
        }
    }
    let ballots = newer.iter().map(|proposed| proposed.slot.ballot);
    let promised = ballots.fold(known, |known, ballot| known.stored(owner.region, ballot));
    if promised != known {
        keep_promise(connection, owner, promised).await?;
    }
    keep_slots(connection, owner, &newer).await?;
    Ok(Accepted::Answered { stored, forked })
}

pub(super) async fn keep_voters(
    connection: &mut PgConnection,
    voters: &Voters,
) -> Result<(), sqlx::Error> {
    let epoch = |voter: &Voter| i32::try_from(voter.epoch.0).unwrap_or(i32::MAX);
    sqlx::query(KEEP_VOTERS)
        .bind(voters.keys().map(RegionId::as_str).collect::<Vec<_>>())
        .bind(voters.values().map(epoch).collect::<Vec<_>>())
        .bind(voters.values().map(|voter| signed(voter.votes)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn lock_promise(
    connection: &mut PgConnection,
    owner: Actor,
) -> Result<Promised, sqlx::Error> {
    let found = of_owner(LOCK_PROMISE, owner).fetch_optional(&mut *connection).await?;
    if let Some(row) = found {
        return promised(&row);
    }
    of_owner(FIRST_PROMISE, owner).execute(&mut *connection).await?;
    promised(&of_owner(LOCK_PROMISE, owner).fetch_one(connection).await?)
}

pub(super) async fn keep_promise(
    connection: &mut PgConnection,
    owner: Actor,
    promised: Promised,
) -> Result<(), sqlx::Error> {
    of_owner(KEEP_PROMISE, owner)
        .bind(round_column(promised.ballot))
        .bind(promised.ballot.region.as_str())
        .bind(promised.fenced)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn read_slots(
    connection: &mut PgConnection,
    owner: Actor,
    keys: &BTreeSet<&StockKey>,
) -> Result<BTreeMap<StockKey, Slot>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = of_owner(SLOTS_OF_KEYS, owner)
        .bind(skus(keys.iter().copied()))
        .bind(nodes(keys.iter().copied()))
        .fetch_all(connection)
        .await?;
    rows.iter().map(keyed_slot).collect()
}

pub(super) async fn keep_slots(
    connection: &mut PgConnection,
    owner: Actor,
    slots: &[&KeyedSlot],
) -> Result<(), sqlx::Error> {
    if slots.is_empty() {
        return Ok(());
    }
    let slot = || slots.iter().map(|keyed| &keyed.slot);
    of_owner(KEEP_SLOTS, owner)
        .bind(skus(slots.iter().map(|keyed| &keyed.key)))
        .bind(nodes(slots.iter().map(|keyed| &keyed.key)))
        .bind(slot().map(|slot| round_column(slot.ballot)).collect::<Vec<_>>())
        .bind(slot().map(|slot| slot.ballot.region.as_str()).collect::<Vec<_>>())
        .bind(slot().map(|slot| signed(slot.sequence)).collect::<Vec<_>>())
        .bind(slot().map(|slot| signed(slot.value.ceiling)).collect::<Vec<_>>())
        .bind(slot().map(|slot| units_json(&slot.value.credits)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

pub(super) fn of_owner(statement: &'static str, owner: Actor) -> Query<'static> {
    sqlx::query(statement).bind(owner.region.as_str()).bind(epoch_column(owner))
}

pub(super) fn round_column(ballot: Ballot) -> i32 {
    i32::try_from(ballot.round).unwrap_or(i32::MAX)
}

pub(super) fn promised(row: &PgRow) -> Result<Promised, sqlx::Error> {
    Ok(Promised { ballot: ballot(row)?, fenced: row.try_get("fenced")? })
}

fn ballot(row: &PgRow) -> Result<Ballot, sqlx::Error> {
    let round: i32 = row.try_get("ballot_round")?;
    let round = u32::try_from(round).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Ballot { round, region: parsed(row, "ballot_region")? })
}

pub(super) fn keyed_slot(row: &PgRow) -> Result<(StockKey, Slot), sqlx::Error> {
    let key = StockKey { sku: parsed(row, "sku")?, node: parsed(row, "node")? };
    let credits = from_json(row.try_get("credits")?)?;
    let value = Value { ceiling: unsigned(row, "ceiling")?, credits };
    Ok((key, Slot { ballot: ballot(row)?, sequence: unsigned(row, "sequence")?, value }))
}

pub(super) fn actor(row: &PgRow) -> Result<Actor, sqlx::Error> {
    Ok(Actor { region: parsed(row, "owner")?, epoch: epoch_of(row)? })
}

fn epoch_of(row: &PgRow) -> Result<Epoch, sqlx::Error> {
    let epoch: i32 = row.try_get("epoch")?;
    u32::try_from(epoch).map(Epoch).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
