//! What must hold once every fault is over and everything has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::idempotency::IntentKey;
use crate::domain::order::{
    AllocationState, ChainVerdict, OrderRecord, OrderStatus, PaymentState, fold_copy, verify_chain,
};
use crate::escrow::Voter;
use crate::gateways::simulator::{Account, Books, State as Held};
use crate::replication::Position;
use crate::types::{InvariantId, OrderId, RegionId, Sku, StockKey};

use super::super::memory::Memory;
use super::super::shopper::Answer;
use super::Checks;

/// Every saga has ended, and, if `contests` counts, no two orders wait for which of them stays.
pub fn is_idle(memories: &[Memory], contests: bool) -> bool {
    memories.iter().all(|memory| {
        let tables = memory.tables();
        let is_settled = !contests || tables.open_contests(memory.region()) == 0;
        is_settled && tables.sagas.values().all(|(saga, _)| saga.state.is_over())
    })
}

/// Each of these regions holds the same of all of them: orders, rights and catalogue, and has applied all
/// there is (I-18, I-20).
pub fn are_equal(memories: &[Memory]) -> Result<(), String> {
    let heads: BTreeMap<RegionId, Position> =
        memories.iter().map(|memory| (memory.region(), memory.tables().head())).collect();
    for memory in memories {
        let tables = memory.tables();
        for (origin, head) in heads.iter().filter(|(origin, _)| **origin != memory.region()) {
            let at = tables.watermarks.get(origin).map(|watermark| watermark.position);
            if at != Some(*head) {
                return Err(format!("{} has {origin} up to {at:?} of {head}", memory.region()));
            }
        }
    }
    let doubtful = changed_by_others(memories, &heads);
    let gone = moved_to_others(memories, &heads);
    let states: Vec<_> =
        memories.iter().map(|memory| replicated(memory, &heads, &doubtful, &gone)).collect();
    for (memory, state) in memories.iter().zip(&states) {
        if *state != states[0] {
            let (a, b) = (memories[0].region(), memory.region());
            return Err(format!("{a} and {b} differ: {}", difference(&states[0], state)));
        }
    }
    Ok(())
}

/// Products that a region changed which forgot what it had written. It counts its envelopes from where it
/// was set back to, so that a peer which had applied further takes them for the ones that it has.
fn changed_by_others(memories: &[Memory], of: &BTreeMap<RegionId, Position>) -> BTreeSet<Sku> {
    let changed = |memory: &Memory| -> Vec<Sku> {
        let tables = memory.tables();
        let products = tables.products.values();
        products.filter(|it| !of.contains_key(&it.hlc.region)).map(|it| it.sku.clone()).collect()
    };
    memories.iter().flat_map(changed).collect()
}

/// Orders that went to a region which is not there any more: who did not hear of it can't.
fn moved_to_others(memories: &[Memory], of: &BTreeMap<RegionId, Position>) -> BTreeSet<OrderId> {
    let gone = |memory: &Memory| -> Vec<OrderId> {
        let tables = memory.tables();
        let moved = tables.orders.values().filter(|it| it.order.moved.is_some());
        let gone = moved.filter(|it| !of.contains_key(&it.order.home_region));
        gone.map(|it| it.order.id).collect()
    };
    memories.iter().flat_map(gone).collect()
}

/// What these regions replicate, in a form that can be compared.
fn replicated(
    memory: &Memory,
    of: &BTreeMap<RegionId, Position>,
    doubtful: &BTreeSet<Sku>,
    gone: &BTreeSet<OrderId>,
) -> BTreeSet<String> {
    let tables = memory.tables();
    let counts = |it: &&Arc<OrderRecord>| {
        of.contains_key(&it.order.home_region) && !gone.contains(&it.order.id)
    };
    let orders = tables
        .orders
        .values()
        .filter(counts)
        .map(|it| format!("order {} {}", it.order.id, it.chain_hash));
    let rows = tables.rights.rows().iter().flat_map(|(key, rows)| {
        let written =
            rows.iter().filter(|(owner, row)| !row.is_blank() && of.contains_key(&owner.region));
        written.map(move |(owner, row)| format!("row {key:?} {owner} {row:?}"))
    });
    let products = tables.products.values().filter(|it| !doubtful.contains(&it.sku));
    let products = products.map(|it| format!("product {} {}", it.sku, it.hlc));
    let nodes = tables.nodes.values().map(|it| format!("node {} {}", it.id, it.hlc));
    orders.chain(rows).chain(products).chain(nodes).collect()
}

fn difference(a: &BTreeSet<String>, b: &BTreeSet<String>) -> String {
    a.symmetric_difference(b).next().cloned().unwrap_or_default()
}

impl Checks {
    /// Everything that is to be looked at once, at the end.
    pub(crate) fn at_rest(&self, books: &Books) {
        for key in self.keys() {
            self.look_at(&key);
        }
        let homes = self.orders_at_home();
        self.events_make_the_state(&homes);
        self.everything_was_applied_once();
        self.the_witness_holds_nothing();
        if self.forgot().is_empty() {
            self.nothing_is_oversold(&homes);
            self.answers_are_kept(&homes);
            self.one_order_an_intent(&homes);
            self.money_is_right(&homes, books);
        } else {
            self.what_was_forgotten_is_noticed();
        }
    }

    /// What went to it could not be sold (I-04).
    fn the_witness_holds_nothing(&self) {
        let Some(witness) = self.witness else { return };
        for memory in &self.memories {
            let tables = memory.tables();
            let rows = tables.rights.rows().iter();
            let rows = rows.flat_map(|(key, rows)| rows.iter().map(move |row| (key, row)));
            for (key, (owner, row)) in rows {
                let given = row.granted.keys().chain(row.chosen.value.credits.keys());
                let has_some = owner.region == witness && row.received > 0;
                if has_some || given.into_iter().any(|actor| actor.region == witness) {
                    let what = format!(
                        "{witness}, the witness, was given units of {} at {}",
                        key.sku, key.node
                    );
                    self.broken(InvariantId::RightsConserved, what);
                }
            }
        }
    }

    /// A region of whose rights or votes a peer knows more than it does itself takes no more orders (I-01).
    fn what_was_forgotten_is_noticed(&self) {
        for region in self.forgot() {
            let Some(memory) = self.memory(region) else { continue };
            let (is_noticed, actor, rows, voter) = {
                let tables = memory.tables();
                let (actor, rows) = (tables.actor(region), tables.rights.rows().clone());
                let voter = Voter { epoch: tables.head().epoch, votes: tables.registers.voted() };
                (tables.is_set_back(), actor, rows, voter)
            };
            let knows_more = |peer: &Memory| {
                let tables = peer.tables();
                if tables.registers.voters().get(&region).is_some_and(|noted| *noted > voter) {
                    return true;
                }
                let told = tables.rights.rows().iter();
                told.filter_map(|(key, told)| Some((key, told.get(&actor)?))).any(|(key, told)| {
                    let own = rows.get(key).and_then(|rows| rows.get(&actor));
                    own.is_none_or(|own| told.supersedes(own) || told.forks_from(own))
                })
            };
            if !is_noticed && self.memories.iter().any(knows_more) {
                let what = format!("{region} was set back, others know it, and it sells on");
                self.broken(InvariantId::NoOversell, what);
            }
        }
    }

    /// Every order, as its home has it; homes that forgot are left out.
    fn orders_at_home(&self) -> BTreeMap<OrderId, OrderRecord> {
        let mut orders = BTreeMap::new();
        for memory in &self.sound() {
            let tables = memory.tables();
            let own = tables.orders.values();
            let own = own.filter(|record| record.order.home_region == memory.region());
            orders.extend(own.map(|record| (record.order.id, record.as_ref().clone())));
        }
        let sound = self.sound();
        let there = sound.iter().map(|memory| (memory.region(), memory.tables().head())).collect();
        for id in moved_to_others(&sound, &there) {
            orders.remove(&id);
        }
        orders
    }

    /// I-01, whatever any row says: what orders hold came, and was not taken off a shelf.
    fn nothing_is_oversold(&self, homes: &BTreeMap<OrderId, OrderRecord>) {
        let mut held: BTreeMap<StockKey, u64> = BTreeMap::new();
        for line in homes.values().flat_map(|record| &record.order.lines) {
            let open = line.allocations.iter().filter(|it| it.state == AllocationState::Held);
            for allocation in open {
                let key = StockKey { sku: line.sku.clone(), node: allocation.node.clone() };
                *held.entry(key).or_default() += u64::from(allocation.quantity);
            }
        }
        for (key, units) in held {
            let (came, went) = self.state().came.get(&key).copied().unwrap_or_default();
            if units + went > came {
                let (sku, node) = (&key.sku, &key.node);
                let what =
                    format!("orders hold {units} of {sku} at {node}, {came} came, {went} went");
                self.broken(InvariantId::NoOversell, what);
            }
        }
    }

    /// The order's home has forgotten what it had written, and begun anew.
    fn is_of_reborn(&self, id: OrderId) -> bool {
        self.placed_in(id).is_some_and(|placed_in| self.state().reborn.contains(&placed_in))
    }

    /// I-06: what a shopper was told is still true, or changed in a way that is documented.
    fn answers_are_kept(&self, homes: &BTreeMap<OrderId, OrderRecord>) {
        let answers = self.state().answers.clone();
        for (intent, answer) in answers {
            // What only its home had known is lost with the home's database.
            let is_lost = |id: &OrderId| !homes.contains_key(id) && self.is_of_reborn(*id);
            let (id, kept) = match &answer {
                Answer::Confirmed(id) => (id, homes.get(id).is_some_and(may_have_been_confirmed)),
                Answer::Taken(id) => (id, homes.contains_key(id)),
                Answer::Refused(id, _) => {
                    let cancelled = |it: &OrderRecord| it.order.status() == OrderStatus::Cancelled;
                    (id, homes.get(id).is_some_and(cancelled))
                }
                Answer::OutOfStock | Answer::Nothing(_) => continue,
            };
            if !kept && !is_lost(id) {
                let now = homes.get(id).map(|record| record.order.status());
                let what = format!("{} was told {answer:?}; it is {now:?}", intent.key);
                self.broken(InvariantId::NothingLost, what);
            }
        }
    }

    /// I-07, also for the references of channels.
    fn one_order_an_intent(&self, homes: &BTreeMap<OrderId, OrderRecord>) {
        let stands = |id: &OrderId| stands(homes, id);
        let mut standing: BTreeMap<IntentKey, BTreeSet<OrderId>> = BTreeMap::new();
        for memory in &self.memories {
            for (intent, records) in &memory.tables().intents {
                let orders = records.iter().filter_map(|record| record.order_id).filter(stands);
                standing.entry(intent.clone()).or_default().extend(orders);
            }
        }
        for (intent, orders) in standing.iter().filter(|(_, orders)| orders.len() > 1) {
            let what = format!("{} has the orders {orders:?}", intent.key);
            self.broken(InvariantId::OneKeyOneOrder, what);
        }
        // Whoever asks at last is told of the order that stands.
        let last = self.state().last_answers.clone();
        for (intent, orders) in &standing {
            let (Some(answer), Some(order)) = (last.get(intent), orders.first()) else { continue };
            if !matches!(answer, Answer::Confirmed(told) | Answer::Taken(told) if told == order) {
                let what = format!("{} has {order} and was told {answer:?}", intent.key);
                self.broken(InvariantId::OneKeyOneOrder, what);
            }
        }
        let mut references = BTreeMap::new();
        for (id, record) in homes.iter().filter(|(id, _)| stands(id)) {
            let order = &record.order;
            let Some(name) = &order.channel_order_ref else { continue };
            let reference = (order.channel.clone(), name.clone(), order.customer_id.clone());
            if let Some(other) = references.insert(reference, *id) {
                let what = format!("{other} and {id} stand under {name}");
                self.broken(InvariantId::OneKeyOneOrder, what);
            }
        }
    }

    /// I-10, I-12: money is held for what stands, once each, and for nothing else.
    fn money_is_right(&self, homes: &BTreeMap<OrderId, OrderRecord>, books: &Books) {
        let mut owed: BTreeMap<&str, (OrderId, i64)> = BTreeMap::new();
        let confirmed = |record: &&OrderRecord| record.order.status() == OrderStatus::Confirmed;
        for record in homes.values().filter(confirmed) {
            for payment in &record.order.payments {
                let key = payment.provider_key.as_str();
                let account = books.account(key);
                let held = account.filter(|it| it.state == Held::Authorized);
                if held.is_none_or(|it| it.amount != payment.amount_minor) {
                    let (id, is) = (record.order.id, account.map(|it| (it.state, it.amount)));
                    let what = format!("{id} stands on {}, {is:?} is held", payment.amount_minor);
                    self.broken(InvariantId::OneAuthorization, what);
                }
                if let Some((other, _)) = owed.insert(key, (record.order.id, payment.amount_minor))
                {
                    let what = format!("{other} and {} stand on one hold", record.order.id);
                    self.broken(InvariantId::OneKeyOneOrder, what);
                }
            }
        }
        for (key, account) in books.accounts() {
            let is_held = matches!(account.state, Held::Authorized | Held::Pending);
            let order = account.order_reference.as_deref().and_then(|id| id.parse().ok());
            let is_lost = order.is_some_and(|id| !homes.contains_key(&id) && self.is_of_reborn(id));
            if is_held && !owed.contains_key(key) && !is_lost {
                self.broken(InvariantId::OneAuthorization, held_for_nothing(key, account));
            }
        }
        for record in homes.values() {
            for payment in &record.order.payments {
                let told = &payment.state;
                let is_open = *told == PaymentState::Pending;
                let disagrees = *told == PaymentState::Authorized
                    && !owed.contains_key(payment.provider_key.as_str());
                if is_open || disagrees {
                    let what = format!("{}: the payment is {told:?} at the end", record.order.id);
                    self.broken(InvariantId::BooksBalance, what);
                }
            }
        }
    }

    /// I-17, I-19: numbers, chain and fold of every order, here and in every copy.
    fn events_make_the_state(&self, homes: &BTreeMap<OrderId, OrderRecord>) {
        for memory in &self.sound() {
            let tables = memory.tables();
            let known = tables.orders.iter().filter(|(id, _)| homes.contains_key(id));
            for (id, record) in known {
                let events = tables.events.get(id).map(Vec::as_slice).unwrap_or_default();
                let is_home = record.order.home_region == memory.region();
                if !is_home {
                    // A copy of the same events is the same; the chain tells that they are.
                    let last = events.last().map(|event| event.chain_hash.as_str());
                    let home = homes.get(id).map(|home| home.chain_hash.as_str());
                    if last != home || u64::try_from(events.len()) != Ok(record.version) {
                        let own = record.version;
                        let there =
                            homes.get(id).map(|home| (home.order.home_region, home.version));
                        let what = format!(
                            "{} has another history of {id}: {} events at version {own}, its home and version there: {there:?}",
                            memory.region(),
                            events.len()
                        );
                        self.broken(InvariantId::FoldGivesState, what);
                    }
                    continue;
                }
                let folded = fold_copy(None, *id, events).ok().flatten();
                if verify_chain(*id, events) != ChainVerdict::Intact {
                    self.broken(InvariantId::EventsGapless, format!("the chain of {id} is broken"));
                }
                if folded.as_ref() != Some(record.as_ref()) {
                    self.broken(
                        InvariantId::FoldGivesState,
                        format!("{id} of {}", memory.region()),
                    );
                }
            }
        }
    }

    /// I-18: each inbox holds what the origin's outbox holds.
    fn everything_was_applied_once(&self) {
        let sound = self.sound();
        for memory in &sound {
            let tables = memory.tables();
            for origin in sound.iter().filter(|it| it.region() != memory.region()) {
                // An incarnation that is over was told again by the next one.
                let (epoch, written) = {
                    let tables = origin.tables();
                    let epoch = tables.head().epoch;
                    let outbox = tables.outbox.values().filter(|it| it.epoch == epoch);
                    let written: Vec<_> =
                        outbox.map(|it| (it.position(), it.event_hash())).collect();
                    (epoch, written)
                };
                let applied = tables
                    .inbox
                    .iter()
                    .filter(|((of, at), _)| *of == origin.region() && at.epoch == epoch);
                let applied: Vec<_> = applied.map(|((_, at), hash)| (*at, hash.clone())).collect();
                if written != applied {
                    let (by, of) = (memory.region(), origin.region());
                    let (told, took) = (written.len(), applied.len());
                    let what = format!("{by} applied {took} of {told} of {of}, or others");
                    self.broken(InvariantId::ReplicationComplete, what);
                }
            }
        }
    }
}

fn stands(homes: &BTreeMap<OrderId, OrderRecord>, id: &OrderId) -> bool {
    homes.get(id).is_some_and(super::stands)
}

/// It stands, or one of two that can't stand beside each other gave way.
fn may_have_been_confirmed(record: &OrderRecord) -> bool {
    let why = record.order.cancellation.as_ref().map(|why| why.code.as_str());
    matches!(why, None | Some("duplicate" | "dependency_unavailable"))
        && record.order.status() != OrderStatus::Pending
}

fn held_for_nothing(key: &str, account: &Account) -> String {
    let (amount, order) = (account.amount, account.order_reference.as_deref().unwrap_or("?"));
    format!("{amount} is {:?} under {key:.8} for {order}, which does not stand", account.state)
}
