//! Obtains rights for orders that would be refused.
//!
//! Orders that are short of the same SKU share one search, so that what it brings is not taken for one
//! order alone. Those that come while it is under way share the next one, which begins when it ends or,
//! where the peers are far away, beside it: so a crowd waits for one round trip and not for two. A SKU
//! costs [`SEARCHES_MAX`] conversations at a time, whatever the number of orders.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Rights, TRANSFER};
use crate::domain::inventory::Shortage;
use crate::escrow::{
    Asking, KeyedRow, Ledger, Request, Row, SkuRows, Step, TransferAnswer, TransferRequest,
};
use crate::ports::{Credit, Obtained, RightsSource, SkuLedgers};
use crate::runtime::TaskSet;
use crate::types::{Actor, NodeId, RegionId, Sku, StockKey, TransferId};

/// How long to wait before a peer that needs its units for orders under way is asked again: one or two
/// of its commit groups.
const BUSY_PAUSE: Duration = Duration::from_millis(15);

/// Before a peer that is heard is asked again when a request failed: an error that comes at once (it is
/// just starting, say) must not become a storm of requests.
const SILENCE_PAUSE: Duration = Duration::from_millis(50);

/// How long a search gathers orders before it begins: orders of one commit group come back within a
/// millisecond or two, and share one request instead of two in a row. Little beside any round trip.
const GATHER: Duration = Duration::from_millis(4);

/// How long it gathers them while another one is under way: a crowd takes about so long to come, and peers that are
/// nearer answer before. Sooner, regions that sell the same SKU at the same moment take its units from each other.
const GATHER_BESIDE: Duration = Duration::from_millis(100);

/// Searches for one target at the same time. Who comes later waits for the end of one of them.
const SEARCHES_MAX: usize = 2;

/// Units asked for beyond the need, if the giver has them to spare: an order that had to ask is seldom
/// the last one, and the next few find stock. No more, since the others may sell the SKU as well.
const WANT_EXTRA: u64 = 8;

/// Asks peers for rights.
pub struct Granter {
    shared: Arc<Shared>,
}

struct Shared {
    rights: Arc<Rights>,
    tasks: TaskSet,
    /// What is searched for.
    queues: Mutex<BTreeMap<Target, Queue>>,
}

/// Who searches for a target; gone when nobody does.
#[derive(Default)]
struct Queue {
    /// Who waits for the next search.
    waiters: Vec<Waiter>,
    /// The next search gathers them already.
    gathering: bool,
    under_way: usize,
    /// One of those under way waits for a peer that needs its units itself: others beside it would ask for the same ones.
    pausing: bool,
}

/// What a search is for: a SKU wherever it is, or at one node only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    sku: Sku,
    node: Option<NodeId>,
}

/// What an order lacks.
#[derive(Debug, Clone, Copy)]
struct Need {
    /// Its whole demand.
    wanted: u64,
    /// Units without which it is refused.
    missing: u64,
    /// What this region held when it was decided.
    held: u64,
    /// Nobody is asked for it any more from then on.
    deadline_ms: u64,
}

struct Waiter {
    need: Need,
    reply: oneshot::Sender<Found>,
}

#[derive(Debug, Clone)]
struct Found {
    gained: bool,
    elsewhere: u64,
}

impl Found {
    /// Nobody could look, or not in time: the order is decided again, since nothing speaks against it.
    const UNKNOWN: Self = Self { gained: true, elsewhere: 0 };
}

impl Granter {
    /// `tasks` owns the searches, so that an answer under way is stored even when nobody waits for it
    /// any more.
    pub fn new(rights: Arc<Rights>, tasks: TaskSet) -> Self {
        Self { shared: Arc::new(Shared { rights, tasks, queues: Mutex::default() }) }
    }
}

#[async_trait]
impl RightsSource for Granter {
    async fn obtain(&self, shortages: &[Shortage], patience: Duration) -> Obtained {
        let searches = shortages.iter().map(|shortage| async {
            let target = Target { sku: shortage.sku.clone(), node: None };
            let Shortage { wanted, available_here, held_here: held, .. } = *shortage;
            let missing = wanted.saturating_sub(available_here);
            let deadline_ms = self.shared.deadline_ms(patience);
            let need = Need { wanted, missing, held, deadline_ms };
            let found = self.shared.search_with_others(target, need, patience);
            (shortage.sku.clone(), found.await)
        });
        let mut obtained = Obtained::default();
        for (sku, found) in futures::future::join_all(searches).await {
            obtained.gained |= found.gained;
            obtained.elsewhere.insert(sku, found.elsewhere);
        }
        obtained
    }

    async fn open(&self, key: &StockKey) {
        self.shared.rights.raise([(key.clone(), 0)]).await;
    }

    async fn recall(&self, key: &StockKey, wanted: u64, held: u64, patience: Duration) -> bool {
        let target = Target { sku: key.sku.clone(), node: Some(key.node.clone()) };
        let (missing, deadline_ms) =
            (wanted.saturating_sub(held), self.shared.deadline_ms(patience));
        let need = Need { wanted, missing, held, deadline_ms };
        self.shared.search_with_others(target, need, patience).await.gained
    }
}

impl Shared {
    fn deadline_ms(&self, patience: Duration) -> u64 {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.rights.clock.monotonic_ms().saturating_add(patience_ms)
    }

    async fn search_with_others(
        self: &Arc<Self>,
        target: Target,
        need: Need,
        patience: Duration,
    ) -> Found {
        // Nobody is asked any more after the deadline, but answers under way are waited for: what a
        // peer has granted should not arrive a moment after the refusal.
        let patience = patience + self.rights.request_timeout;
        let (reply, found) = oneshot::channel();
        if let Some(gather) = self.wait_in(&target, Waiter { need, reply }) {
            let shared = Arc::clone(self);
            let searches = async move { shared.searches(target, gather).await };
            drop(self.tasks.spawn("search-rights", searches));
        }
        // A search that ended without an answer is a server that is stopping.
        let found = tokio::time::timeout(patience, found).await.ok().and_then(Result::ok);
        found.unwrap_or(Found::UNKNOWN)
    }

    /// Adds one who waits. `Some`: a search is to begin after that time.
    fn wait_in(&self, target: &Target, waiter: Waiter) -> Option<Duration> {
        let mut queues = self.queues.lock().expect("no panic while held");
        let queue = queues.entry(target.clone()).or_default();
        queue.waiters.push(waiter);
        if queue.gathering || queue.pausing || queue.under_way >= SEARCHES_MAX {
            return None;
        }
        queue.gathering = true;
        Some(if queue.under_way == 0 { GATHER } else { GATHER_BESIDE })
    }

    /// One search after the other, until nobody waits for whom no other one gathers.
    async fn searches(self: Arc<Self>, target: Target, mut gather: Duration) {
        loop {
            tokio::time::sleep(gather).await;
            let waiters = self.begin(&target);
            let (needs, replies): (Vec<_>, Vec<_>) =
                waiters.into_iter().map(|waiter| (waiter.need, waiter.reply)).unzip();
            let found = self.search(&target, needs).await;
            for reply in replies {
                // Who stopped waiting has refused its order already.
                drop(reply.send(found.clone()));
            }
            if !self.goes_on(&target) {
                return;
            }
            gather = GATHER;
        }
    }

    /// A search begins, for all who still wait: who does not was told already, or waits anew.
    fn begin(&self, target: &Target) -> Vec<Waiter> {
        let mut queues = self.queues.lock().expect("no panic while held");
        let queue = queues.entry(target.clone()).or_default();
        queue.gathering = false;
        queue.under_way += 1;
        let mut waiters = std::mem::take(&mut queue.waiters);
        waiters.retain(|waiter| !waiter.reply.is_closed());
        waiters
    }

    fn pauses(&self, target: &Target) {
        let mut queues = self.queues.lock().expect("no panic while held");
        queues.entry(target.clone()).or_default().pausing = true;
    }

    /// A search ended. Answers whether it gathers those who wait for the next one.
    fn goes_on(&self, target: &Target) -> bool {
        let mut queues = self.queues.lock().expect("no panic while held");
        let queue = queues.entry(target.clone()).or_default();
        queue.under_way -= 1;
        queue.pausing = false;
        let goes_on = !queue.gathering && !queue.waiters.is_empty();
        queue.gathering |= goes_on;
        if queue.under_way == 0 && !queue.gathering {
            queues.remove(target);
        }
        goes_on
    }

    /// What the orders need stays set aside while they wait. For orders that all regions together can't serve nothing is
    /// set aside, and nothing is moved: one of them would bring every unit here, and others would be refused for it.
    async fn search(&self, target: &Target, mut needs: Vec<Need>) -> Found {
        let rights = &self.rights;
        let Some(mut ledgers) = self.ledgers(target).await else { return Found::UNKNOWN };
        let can_be_served = |ledgers: &SkuLedgers| {
            let there = self.in_reach(ledgers);
            move |need: &Need| need.wanted <= there
        };
        if !needs.iter().all(can_be_served(&ledgers)) && self.all_tell(target, &ledgers).await {
            let Some(told) = self.ledgers(target).await else { return Found::UNKNOWN };
            ledgers = told;
            needs.retain(can_be_served(&ledgers));
        }
        if needs.is_empty() {
            return Found { gained: false, elsewhere: elsewhere(&ledgers, rights.own) };
        }
        let wanted = needs.iter().map(|need| need.wanted).fold(0, u64::saturating_add);
        let claim = rights.waiting.begin(&target.sku, wanted);
        let found = self.look_for(target, &needs, ledgers).await;
        rights.waiting.ended(&claim, rights.clock.monotonic_ms(), found.gained);
        found
    }

    /// What this region and those that it can ask may sell.
    fn in_reach(&self, ledgers: &SkuLedgers) -> u64 {
        let sellers = self.rights.sellers();
        let may_sell = |ledger: &Ledger| {
            let others = sellers.iter().filter(|region| **region != self.rights.own.region);
            others.map(|region| ledger.rights(ledger.latest(*region))).fold(0, u64::saturating_add)
        };
        ledgers.values().map(may_sell).fold(own_rights(ledgers), u64::saturating_add)
    }

    /// What is known here of others may be old: all who can be asked tell what they have, and give nothing. Answers
    /// whether all did.
    async fn all_tell(&self, target: &Target, ledgers: &SkuLedgers) -> bool {
        let rows = |(node, ledger): (&NodeId, &Ledger)| (node.clone(), ledger.rows().clone());
        let rows: &SkuRows = &ledgers.iter().map(rows).collect();
        let peers = self.rights.sellers().into_iter().filter(|it| *it != self.rights.own.region);
        let tell = peers.map(|to| async move {
            let request = Request { to, need: 0, want: 0, rows: rows.clone() };
            let (peer, message) = self.message(target, request);
            ask_peer(&self.rights, peer, &message).await.is_some()
        });
        futures::future::join_all(tell).await.into_iter().all(|told| told)
    }

    async fn look_for(&self, target: &Target, needs: &[Need], mut ledgers: SkuLedgers) -> Found {
        let (rights, sku) = (&self.rights, &target.sku);
        let wanted = needs.iter().map(|need| need.wanted).fold(0, u64::saturating_add);
        // What is held may lie above the ceilings.
        let closed = closed(&ledgers, sku);
        if spendable(&ledgers) < wanted && !closed.is_empty() {
            rights.raise(closed.into_iter().map(|key| (key, wanted))).await;
            let Some(raised) = self.ledgers(target).await else { return Found::UNKNOWN };
            ledgers = raised;
        }
        // Rights may have come in between an order's decision and this search.
        let held = spendable(&ledgers);
        let seen = needs.iter().map(|need| need.held).max().unwrap_or(0);
        if held >= wanted && held > seen {
            return Found { gained: true, elsewhere: elsewhere(&ledgers, rights.own) };
        }
        // What this region holds it asks nobody for: its ceilings are raised within a round or two.
        let ours = if rights.may_raise() { own_rights(&ledgers) } else { held };
        if held < wanted && ours >= wanted {
            return Found { gained: true, elsewhere: elsewhere(&ledgers, rights.own) };
        }
        let short = needs.iter().map(|need| need.missing).fold(0, u64::saturating_add);
        let need = if ours < wanted { wanted - ours } else { short.max(1) };
        let expected = rights.board.expected(sku);
        let want = need.saturating_add(expected.max(WANT_EXTRA));
        let deadline_ms = needs.iter().map(|need| need.deadline_ms).max().unwrap_or(0);
        let reachable = rights.sellers();
        let mut asking = Asking::new(rights.own, ledgers, need, want, reachable);
        self.ask_until(target, &mut asking, deadline_ms, wanted).await;
        let elsewhere = rights
            .bus
            .peers()
            .into_iter()
            .map(|peer| asking.rights(peer))
            .fold(0, u64::saturating_add);
        let gained = asking.obtained() > 0 || held > seen || self.holds_more(target).await;
        Found { gained, elsewhere }
    }

    /// What was opened was sold to others meanwhile, and this region holds more: worth another try, where a
    /// majority can be asked.
    async fn holds_more(&self, target: &Target) -> bool {
        let Some(ledgers) = self.ledgers(target).await else { return false };
        self.rights.may_raise() && !closed(&ledgers, &target.sku).is_empty()
    }

    /// What is known of a target; `None` where the database can't be read.
    async fn ledgers(&self, target: &Target) -> Option<SkuLedgers> {
        let sku = &target.sku;
        match self.rights.store.ledgers(sku).await {
            Ok(mut ledgers) => {
                ledgers.retain(|node, _| target.node.as_ref().is_none_or(|only| node == only));
                Some(ledgers)
            }
            Err(error) => {
                tracing::warn!(%sku, %error, "rights can't be looked for: {error}");
                None
            }
        }
    }

    /// Drives a search to its end or to its deadline.
    async fn ask_until(&self, target: &Target, asking: &mut Asking, deadline_ms: u64, wanted: u64) {
        let mut under_way: FuturesUnordered<JoinHandle<Asked>> = FuturesUnordered::new();
        loop {
            let left_ms = deadline_ms.saturating_sub(self.rights.clock.monotonic_ms());
            match asking.step() {
                Step::Ask(requests) if left_ms > 0 => {
                    under_way.extend(requests.into_iter().map(|request| {
                        let (peer, message) = self.message(target, request);
                        self.ask(peer, message, wanted, Duration::ZERO)
                    }));
                }
                Step::Pause if left_ms > 0 => {
                    self.pauses(target);
                    tokio::time::sleep(BUSY_PAUSE).await;
                    asking.resume();
                    continue;
                }
                Step::Obtained | Step::Exhausted => return,
                Step::Ask(_) | Step::Pause | Step::Wait => {}
            }
            match under_way.next().await {
                Some(Ok(Asked { peer, answer: Some(answer), .. })) => {
                    // What must not be merged was reported when it was stored.
                    if asking.answered(peer, &answer.rows, answer.busy).is_err() {
                        asking.silent(peer);
                    }
                }
                // One that is heard but doesn't answer is busy or lost the message: it is asked again,
                // since what it holds can be had.
                Some(Ok(Asked { peer, message, answer: None }))
                    if self.may_answer(peer, left_ms) =>
                {
                    asking.late(peer);
                    under_way.push(self.ask(peer, message, wanted, SILENCE_PAUSE));
                }
                Some(Ok(Asked { peer, answer: None, .. })) => asking.silent(peer),
                // Nothing under way and the time is up, or a task that died in a shutdown.
                Some(Err(_)) | None => return,
            }
        }
    }

    fn may_answer(&self, peer: RegionId, left_ms: u64) -> bool {
        left_ms > 0 && self.rights.reachability.reachable().contains(&peer)
    }

    fn message(&self, target: &Target, request: Request) -> (RegionId, TransferRequest) {
        let message = TransferRequest {
            request: TransferId(self.rights.ids.uuid()),
            asker: self.rights.own,
            sku: target.sku.clone(),
            node: target.node.clone(),
            need: request.need,
            want: request.want,
            rows: request.rows,
        };
        (request.to, message)
    }

    /// Asks one peer after a pause; stores what it gives, and raises the ceilings to it, before anybody is told.
    fn ask(
        &self,
        peer: RegionId,
        message: TransferRequest,
        wanted: u64,
        pause: Duration,
    ) -> JoinHandle<Asked> {
        let rights = Arc::clone(&self.rights);
        self.tasks.spawn("ask-for-rights", async move {
            tokio::time::sleep(pause).await;
            let answer = ask_peer(&rights, peer, &message).await;
            let given = answer.iter().flat_map(|answer| answer.grants.keys());
            let given: Vec<(StockKey, u64)> = given
                .map(|node| StockKey { sku: message.sku.clone(), node: node.clone() })
                .map(|key| (key, wanted))
                .collect();
            if !given.is_empty() {
                rights.raise(given).await;
            }
            Asked { peer, message, answer }
        })
    }
}

/// How a request to a peer went.
struct Asked {
    peer: RegionId,
    message: TransferRequest,
    answer: Option<TransferAnswer>,
}

/// Sends a transfer request and stores what comes back. `None`: no usable answer; what the peer may
/// have granted comes with its rows.
pub async fn ask_peer(
    rights: &Rights,
    peer: RegionId,
    request: &TransferRequest,
) -> Option<TransferAnswer> {
    let sku = &request.sku;
    let bytes = serde_json::to_vec(request).expect("rows and numbers have a JSON form");
    let limit = rights.request_timeout;
    let answer = match rights.bus.request(peer, TRANSFER, bytes.into(), limit).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%peer, %sku, %error, "no rights from a peer: {error}");
            return None;
        }
    };
    let answer: TransferAnswer = match serde_json::from_slice(&answer) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%peer, %sku, %error, "a peer's answer can't be read: {error}");
            return None;
        }
    };
    let credits: Vec<Credit> = answer
        .grants
        .iter()
        .map(|(node, grant)| Credit {
            transfer: grant.transfer,
            key: StockKey { sku: sku.clone(), node: node.clone() },
            from: peer,
            units: grant.units,
        })
        .collect();
    if let Err(error) = rights.learn(&keyed(sku, &answer.rows), &credits).await {
        tracing::warn!(%peer, %sku, %error, "granted rights are not stored yet: {error}");
        return None;
    }
    Some(answer)
}

pub(super) fn keyed(sku: &Sku, rows: &SkuRows) -> Vec<KeyedRow> {
    let of_node = |(node, rows): (&NodeId, &BTreeMap<Actor, Row>)| {
        let key = StockKey { sku: sku.clone(), node: node.clone() };
        let keyed =
            |(&owner, row): (&Actor, &Row)| KeyedRow { key: key.clone(), owner, row: row.clone() };
        rows.iter().map(keyed).collect::<Vec<_>>()
    };
    rows.iter().flat_map(of_node).collect()
}

fn spendable(ledgers: &SkuLedgers) -> u64 {
    ledgers.values().map(Ledger::spendable).fold(0, u64::saturating_add)
}

fn own_rights(ledgers: &SkuLedgers) -> u64 {
    ledgers.values().map(|ledger| ledger.rights(ledger.own())).fold(0, u64::saturating_add)
}

/// The keys of a SKU under which this region holds more than its ceilings let it sell.
pub(super) fn closed(ledgers: &SkuLedgers, sku: &Sku) -> Vec<StockKey> {
    let holds_more = |ledger: &Ledger| ledger.rights(ledger.own()) > ledger.spendable();
    let closed = ledgers.iter().filter(|(_, ledger)| holds_more(ledger));
    closed.map(|(node, _)| StockKey { sku: sku.clone(), node: node.clone() }).collect()
}

fn elsewhere(ledgers: &SkuLedgers, own: Actor) -> u64 {
    let others = |ledger: &Ledger| {
        let others = ledger.actors().filter(|actor| actor.region != own.region);
        others.map(|actor| ledger.rights(actor)).fold(0, u64::saturating_add)
    };
    ledgers.values().map(others).fold(0, u64::saturating_add)
}
