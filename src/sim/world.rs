//! One world: regions, links, a provider and shoppers, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::app::{AdjustStock, Adjustment, Put, PutProduct, Region};
use crate::domain::catalogue::{Node, NodeKind, Product};
use crate::ports::{ChangeSet, RejoinStore as _, Stamp, Store as _};
use crate::runtime::spawn_named;
use crate::types::{Epoch, HlcTimestamp, RegionId, RegionNumber, StockKey, TransferId};

use super::bus::Hub;
use super::checks::Checks;
use super::dice::Dice;
use super::memory::{MemoryRights, Tables};
use super::network::Network;
use super::plan::{Action, Plan, REGIONS};
use super::provider::Provider;
use super::server::{Server, Site, Surroundings};
use super::shared::Shared;
use super::shopper::{node, shop, sku};
use super::time::WorldTime;
use super::trace::Trace;

/// Between two tries to have a region retired.
const RETIRE_AGAIN: Duration = Duration::from_millis(700);

/// Everything of one run.
pub struct World {
    /// Time, trace, rules.
    pub shared: Arc<Shared>,
    /// Links.
    pub network: Arc<Network>,
    /// The provider.
    pub provider: Arc<Provider>,
    is_calm: bool,
    loses_only_answers: bool,
    around: Surroundings,
    sites: Vec<Site>,
    servers: Mutex<Vec<Option<Arc<Server>>>>,
    /// Draws the names of operators' transfers.
    dice: Mutex<Dice>,
}

impl World {
    /// Regions with a stocked catalogue, whose servers run.
    pub async fn begin(plan: &Plan, keep_trace: bool) -> Arc<Self> {
        let names: Vec<RegionId> = REGIONS[..plan.regions]
            .iter()
            .map(|name| name.parse().expect("a region's name"))
            .collect();
        let sites: Vec<Site> = names.iter().map(|name| Site::new(*name, plan.seed)).collect();
        let memories = sites.iter().map(|site| site.memory.clone()).collect();
        let time = WorldTime::begin();
        let witness = plan.witness.then(|| names[plan.regions - 1]);
        let shared = Arc::new(Shared::new(
            time,
            Trace::new(keep_trace),
            Checks::new(time, memories, witness),
            plan.knobs.clone(),
        ));
        let network = Arc::new(Network::new(plan.seed, &plan.knobs));
        let hub = Arc::new(Hub::new(Arc::clone(&shared), Arc::clone(&network)));
        let dice = Dice::of(plan.seed, "provider");
        let provider = Arc::new(Provider::new(Arc::clone(&shared), dice));
        let number = |index: usize| {
            let number = u8::try_from(index + 1).ok().and_then(NonZeroU8::new);
            RegionNumber(number.expect("a handful of regions"))
        };
        let numbers: BTreeMap<RegionId, RegionNumber> =
            names.iter().enumerate().map(|(index, name)| (*name, number(index))).collect();
        let around = Surroundings {
            shared: Arc::clone(&shared),
            hub,
            provider: Arc::clone(&provider),
            numbers,
            witness,
            seed: plan.seed,
        };
        let dice = Mutex::new(Dice::of(plan.seed, "operators"));
        let servers = Mutex::new(sites.iter().map(|_| None).collect());
        let (is_calm, loses_only_answers) = (plan.is_calm(), plan.loses_only_answers());
        let world = Arc::new(Self {
            shared,
            network,
            provider,
            is_calm,
            loses_only_answers,
            around,
            sites,
            servers,
            dice,
        });
        world.stock(plan).await;
        let of_world = Arc::downgrade(&world);
        world.provider.tell(Arc::new(move |order| {
            let Some(world) = of_world.upgrade() else { return };
            for server in world.running() {
                drop(spawn_named("webhook", async move {
                    // What the webhook brings is a hint; the saga asks by itself.
                    drop(server.app.nudge_order(order).await);
                }));
            }
        }));
        for index in 0..plan.regions {
            world.start(index);
        }
        world
    }

    /// The catalogue is the same everywhere from the beginning; each region receives at its own node.
    async fn stock(&self, plan: &Plan) {
        for (index, site) in self.sites.iter().enumerate() {
            let hlc = HlcTimestamp { wall_ms: 1, logical: 0, region: site.region };
            let stamp = Stamp { epoch: site.memory.tables().head().epoch, hlc, now_ms: 1 };
            let mut changes = ChangeSet::default();
            for (place, shelf) in plan.stock.iter().enumerate() {
                let key = StockKey { sku: sku(place), node: node(index) };
                let received = shelf.get(index).copied().unwrap_or(0);
                if received > 0 {
                    changes.stock.entry(key).or_default().received = received;
                }
            }
            for (other, origin) in self.sites.iter().enumerate().take(self.sellers()) {
                let hlc = HlcTimestamp { region: origin.region, ..hlc };
                let node = place(node(other), origin.region, hlc);
                changes.nodes.insert(node.id.clone(), node);
            }
            for place in 0..plan.stock.len() {
                let product = product(place, HlcTimestamp { region: self.sites[0].region, ..hlc });
                changes.products.insert(product.sku.clone(), product);
            }
            site.memory.commit(&changes, stamp).await.expect("an empty database takes everything");
            self.shared.checks.committed(&site.memory, &changes, stamp);
        }
    }

    /// A region's running server.
    pub fn server(&self, region: usize) -> Option<Arc<Server>> {
        self.servers.lock().expect("no panic while held").get(region)?.clone()
    }

    fn running(&self) -> Vec<Arc<Server>> {
        self.servers.lock().expect("no panic while held").iter().flatten().cloned().collect()
    }

    fn set_server(&self, region: usize, server: Option<Arc<Server>>) -> Option<Arc<Server>> {
        let mut servers = self.servers.lock().expect("no panic while held");
        std::mem::replace(&mut servers[region], server)
    }

    /// Starts a region's server, unless one runs.
    fn start(&self, region: usize) {
        if self.server(region).is_none() {
            self.shared.checks.started(self.sites[region].region);
            let server = self.sites[region].start(&self.around);
            self.shared.note(REGIONS[region], format_args!("starts"));
            self.set_server(region, Some(Arc::new(server)));
        }
    }

    /// A message of a client's request from one region to another.
    pub async fn cross(&self, from: usize, to: usize) -> Option<()> {
        if from == to {
            return Some(());
        }
        let (from, to) = (self.sites[from].region, self.sites[to].region);
        let delay = self.network.carry(from, to).into_iter().min()?;
        tokio::time::sleep(delay).await;
        Some(())
    }

    /// Nothing breaks in this world.
    pub fn is_calm(&self) -> bool {
        self.is_calm
    }

    /// Servers and databases go on all the time; only answers of databases get lost.
    pub fn loses_only_answers(&self) -> bool {
        self.loses_only_answers
    }

    /// Regions by their databases.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Carries out an entry of the plan. What takes time goes on by itself.
    pub fn act(self: &Arc<Self>, action: Action) -> JoinHandle<()> {
        let world = Arc::clone(self);
        spawn_named("action", async move { world.carry_out(action).await })
    }

    async fn carry_out(self: &Arc<Self>, action: Action) {
        if !matches!(action, Action::Order(_)) {
            let text = serde_json::to_string(&action).expect("plain values");
            self.shared.note("fault", format_args!("{text}"));
        }
        let wait = |ms: u64| tokio::time::sleep(Duration::from_millis(ms));
        match action {
            Action::Order(shopping) => shop(Arc::clone(self), shopping).await,
            Action::Crash { region, down_ms } => {
                if let Some(server) = self.set_server(region, None) {
                    server.kill();
                }
                wait(down_ms).await;
                self.start(region);
            }
            Action::SetBack { region, after_ms } => {
                let backup = self.sites[region].memory.tables().clone();
                wait(after_ms).await;
                self.set_back(region, backup);
            }
            Action::Destroyed { region, down_ms } => {
                if let Some(server) = self.set_server(region, None) {
                    server.kill();
                }
                wait(down_ms).await;
                self.build_again(region);
            }
            Action::Retired { region, by, down_ms } => {
                self.destroy(region);
                let retiring = self.retire(region, by);
                drop(tokio::time::timeout(Duration::from_millis(down_ms), retiring).await);
                if !self.shared.is_healed() {
                    self.start(region);
                }
            }
            Action::DatabaseDown { region, down_ms } => {
                self.sites[region].condition.set_down(true);
                wait(down_ms).await;
                self.sites[region].condition.set_down(false);
            }
            Action::DatabaseSlow { region, factor, lasts_ms } => {
                self.sites[region].condition.set_slow(factor);
                wait(lasts_ms).await;
                self.sites[region].condition.set_slow(1);
            }
            Action::BrokerForgets { region, messages } => {
                self.around.hub.forget(self.sites[region].region, messages);
            }
            Action::Cut { from, to, both, lasts_ms } => {
                let (from, to) = (self.sites[from].region, self.sites[to].region);
                let cut = |cut: bool| {
                    self.network.set_cut(from, to, cut);
                    if both {
                        self.network.set_cut(to, from, cut);
                    }
                };
                cut(true);
                wait(lasts_ms).await;
                cut(false);
            }
            Action::Slow { from, to, factor, lasts_ms } => {
                let (from, to) = (self.sites[from].region, self.sites[to].region);
                self.network.set_slow(from, to, factor);
                wait(lasts_ms).await;
                self.network.set_slow(from, to, 1);
            }
            Action::ClockJumps { region, by_ms } => self.clock_jumps(region, by_ms),
            Action::Rename { region, sku: place } => self.rename(region, place).await,
            Action::NextEpoch { region } => self.next_epoch(region).await,
            Action::ProviderDown { lasts_ms } => {
                self.provider.set_down(true);
                wait(lasts_ms).await;
                self.provider.set_down(false);
            }
            Action::Adjust { region, sku: place, by } => self.adjust(region, place, by).await,
            Action::Transfer { from, to, sku: place, node: at, units } => {
                let key = StockKey { sku: sku(place), node: node(at) };
                self.transfer(from, to, &key, units).await;
            }
            Action::Fence { by, lost } => self.fence(by, lost).await,
            Action::Evacuate { region, to, lasts_ms } => {
                self.evacuate(region, to).await;
                wait(lasts_ms).await;
                self.drain(region, false).await;
            }
            Action::Drain { region, lasts_ms } => {
                self.drain(region, true).await;
                wait(lasts_ms).await;
                self.drain(region, false).await;
            }
        }
    }

    fn set_back(&self, region: usize, backup: Tables) {
        if self.shared.is_healed() {
            return;
        }
        if let Some(server) = self.set_server(region, None) {
            server.kill();
        }
        let site = &self.sites[region];
        let forgets = {
            let tables = site.memory.tables();
            tables.head() != backup.head()
                || tables.rights.rows() != backup.rights.rows()
                || tables.registers.voted() != backup.registers.voted()
        };
        if forgets {
            self.shared.checks.forgets(site.region);
        } else {
            // It wrote nothing since; what it applied since comes again.
            self.shared.checks.applies_again(site.region, &backup.watermarks);
        }
        // A copy of the files, or, where nothing kept shows that it is old, a restore that begins a new history.
        let is_copy = site.marker_tells(&backup);
        site.memory.restore(backup, !is_copy);
        self.start(region);
    }

    fn build_again(&self, region: usize) {
        if self.shared.is_healed() {
            return;
        }
        self.destroy(region);
        self.start(region);
    }

    fn destroy(&self, region: usize) {
        let site = &self.sites[region];
        if let Some(server) = self.set_server(region, None) {
            server.kill();
        }
        self.shared.checks.forgets(site.region);
        site.wipe();
    }

    /// Two people say that it is gone for good, and again until it is done, or it is built again: not every other region may be
    /// there.
    async fn retire(&self, lost: usize, by: usize) {
        let region = self.sites[lost].region;
        for person in ["alice", "bob"].into_iter().chain(std::iter::repeat("carol")) {
            tokio::time::sleep(RETIRE_AGAIN).await;
            // From then on it is there again, and what they say of it would not be so.
            if self.shared.is_healed() {
                return;
            }
            let Some(server) = self.server(by).filter(|_| by != lost) else { continue };
            tokio::select! {
                biased;
                () = server.life.over() => {}
                _ = server.adoption.fence(region, true) => {}
            }
            let retired = tokio::select! {
                biased;
                () = server.life.over() => continue,
                retired = server.retire.retire(region, person) => retired,
            };
            let is_done = retired.as_ref().is_ok_and(|it| it.outcome.is_some());
            let told =
                retired.map_or_else(|error| error.to_string(), |it| format!("{:?}", it.outcome));
            self.shared.note(REGIONS[by], format_args!("retires {}: {told}", REGIONS[lost]));
            if is_done {
                return;
            }
        }
    }

    fn clock_jumps(&self, region: usize, by_ms: i64) {
        let site = &self.sites[region];
        let shown_ms = site.skew.wall_ms(self.shared.time);
        self.shared.checks.clock_showed(site.region, shown_ms);
        site.skew.jump(by_ms);
    }

    /// Whoever is fenced is told by its database only. This stands for a region whose rejoin had nothing to
    /// tell: while another one has not applied all that it wrote, its epoch goes on.
    async fn next_epoch(&self, region: usize) {
        let memory = &self.sites[region].memory;
        let (own, written) = (memory.region(), memory.tables().head());
        let epoch = Epoch(written.epoch.0 + 1);
        let others = || self.sites.iter().enumerate().filter(|(index, _)| *index != region);
        let is_known = others().all(|(_, peer)| {
            let applied = peer.memory.tables().watermarks.get(&own).map(|mark| mark.position);
            applied == Some(written)
        });
        if !is_known {
            return;
        }
        self.shared.checks.forgets(own);
        for (index, peer) in others() {
            let store = MemoryRights::new(peer.memory.clone(), peer.memory.tables().head().epoch);
            store.note_incarnation(own, epoch).await.expect("a database in memory answers");
            self.shared.checks.noted(peer.region, own, epoch);
            if let Some(server) = self.server(index) {
                server.rights.note_incarnation(own, epoch);
            }
        }
        memory.begin_epoch(epoch);
    }

    async fn rename(&self, region: usize, place: usize) {
        let Some(server) = self.server(region) else { return };
        let change = |product: Product| Product { description: "changed".to_owned(), ..product };
        let put = PutProduct { sku: sku(place), put: Put::Change(Box::new(change)) };
        tokio::select! {
            biased;
            () = server.life.over() => {}
            outcome = server.app.writer.submit(put) => {
                let outcome = outcome.map(|(outcome, _)| outcome);
                self.shared.note(REGIONS[region], format_args!("renames: {outcome:?}"));
            }
        }
    }

    async fn adjust(&self, region: usize, place: usize, by: i64) {
        let Some(server) = self.server(region) else { return };
        let key = StockKey { sku: sku(place), node: node(region) };
        let make = || AdjustStock {
            key: key.clone(),
            adjustment: Adjustment::By(by),
            reason: "receipt".to_owned(),
            intent: None,
        };
        tokio::select! {
            biased;
            () = server.life.over() => {}
            outcome = server.app.adjust_stock(make) => {
                self.shared.note(REGIONS[region], format_args!("adjusts: {outcome:?}"));
            }
        }
    }

    async fn transfer(&self, from: usize, to: usize, key: &StockKey, units: u64) {
        let Some(server) = self.server(from) else { return };
        let name = {
            let mut dice = self.dice.lock().expect("no panic while held");
            (u128::from(dice.number()) << 64) | u128::from(dice.number())
        };
        let name = TransferId(uuid::Uuid::from_u128(name));
        let to = self.sites[to].region;
        // The operator does it twice, as one does when the answer takes long.
        for _ in 0..2 {
            let moved = crate::app::rights::transfer(&server.rights, name, key, to, units).await;
            self.shared.note(REGIONS[from], format_args!("is told to move: {moved:?}"));
        }
    }

    async fn fence(&self, by: usize, lost: usize) {
        let Some(server) = self.server(by).filter(|_| by != lost) else { return };
        tokio::select! {
            biased;
            () = server.life.over() => {}
            taken = server.adoption.fence(self.sites[lost].region, false) => {
                self.shared.note(REGIONS[by], format_args!("fences {}: {taken:?}", REGIONS[lost]));
            }
        }
    }

    /// How many there are.
    pub fn regions(&self) -> usize {
        self.sites.len()
    }

    /// The first so many of them sell.
    pub fn sellers(&self) -> usize {
        self.sites.len() - usize::from(self.around.witness.is_some())
    }

    /// Every region knows whether its database remembers everything.
    pub fn is_sure(&self) -> bool {
        let regions = self.running();
        let mut regions = regions.iter().map(|server| &server.app.region);
        let forgot = self.shared.checks.forgot();
        regions.all(|region| !region.is_in_doubt() || forgot.contains(&region.id))
    }

    /// Regions that know to have been fenced come back, and those whose database was set back begin anew.
    ///
    /// Where two forgot, neither may: what both knew of each other is lost, and only people can tell. But for one whose
    /// database remembers that the other was gone for good before.
    pub async fn rejoin(self: &Arc<Self>) {
        let running = self.running();
        let set_back: BTreeSet<RegionId> = running
            .iter()
            .map(|server| &server.app.region)
            .filter(|region| region.is_set_back())
            .map(|region| region.id)
            .collect();
        let forgot = self.shared.checks.forgot();
        let may_begin = |site: &Site| {
            let ended = site.memory.tables().ended();
            let is_gone = |other: &RegionId| ended.iter().any(|it| it.region == *other);
            forgot.union(&set_back).all(|other| *other == site.region || is_gone(other))
        };
        // Who is in doubt waits for the one that forgot, which waits for everybody: people know which databases are whole.
        let is_whole = |region: &Region| region.is_in_doubt() && !forgot.contains(&region.id);
        for server in running.iter().filter(|it| !forgot.is_empty() && is_whole(&it.app.region)) {
            server.verification.trust();
        }
        for (index, site) in self.sites.iter().enumerate() {
            let Some(server) = self.server(index) else { continue };
            let is_over = || site.memory.tables().head().epoch > server.app.region.epoch;
            if may_begin(site) && server.app.region.is_set_back() && !is_over() {
                let begun = tokio::select! {
                    biased;
                    () = server.life.over() => continue,
                    begun = server.rejoin.begin() => begun,
                };
                self.shared.note(REGIONS[index], format_args!("begins anew: {begun:?}"));
            }
            // A process ends when its database belongs to a later incarnation.
            if is_over() {
                self.set_server(index, None);
                server.kill();
                // An incarnation that began of itself told nothing again.
                if self.shared.checks.forgot().contains(&site.region) {
                    self.shared.checks.forgets(site.region);
                }
                self.start(index);
            }
        }
        for server in self.running().iter().filter(|server| server.app.region.is_fenced()) {
            tokio::select! {
                biased;
                () = server.life.over() => {}
                back = server.rights.come_back() => {
                    self.shared.note(server.app.region.id.as_str(), format_args!("rejoins: {back:?}"));
                }
            }
        }
    }

    async fn evacuate(&self, region: usize, to: usize) {
        let Some(server) = self.server(region) else { return };
        let to = self.sites[to].region;
        let ended = tokio::select! {
            biased;
            () = server.life.over() => return,
            ended = server.evacuation.follow(Some(to), None, Duration::MAX) => ended,
        };
        let ended = ended.map_or_else(|error| error.to_string(), |it| format!("{it:?}"));
        self.shared.note(REGIONS[region], format_args!("is given up: {ended}"));
    }

    async fn drain(&self, region: usize, draining: bool) {
        let Some(server) = self.server(region) else { return };
        if !draining {
            self.shared.checks.drained(self.sites[region].region, false);
        }
        let drained = server.app.stops.drain(draining).await;
        // Also when it is resumed: an order to drain it that was slow may have been carried out in between.
        if drained.is_ok() {
            self.shared.checks.drained(self.sites[region].region, draining);
        }
        self.shared.note(REGIONS[region], format_args!("drains {draining}: {drained:?}"));
    }

    /// Ends every server and lets go of what they hold of each other.
    pub fn end(&self) {
        for index in 0..self.sites.len() {
            if let Some(server) = self.set_server(index, None) {
                server.kill();
            }
        }
        self.around.hub.clear();
    }

    /// Every fault is over: links whole, servers up. Clocks stay as wrong as they are: nothing may rest on them.
    pub async fn heal(self: &Arc<Self>) {
        self.shared.note("world", format_args!("heals"));
        self.shared.heal();
        self.network.heal();
        self.provider.set_down(false);
        for (index, site) in self.sites.iter().enumerate() {
            site.condition.set_down(false);
            site.condition.set_slow(1);
            self.start(index);
            self.drain(index, false).await;
        }
    }
}

fn product(index: usize, hlc: HlcTimestamp) -> Product {
    let price = i64::try_from(index).unwrap_or(0) * 100 + 250;
    Product {
        sku: sku(index),
        name: "A".to_owned(),
        description: String::new(),
        category: String::new(),
        tax_class: "standard".to_owned(),
        weight_grams: 1,
        prices: [("EUR".parse().expect("a currency"), price)].into(),
        preorder_release_at: None,
        hlc,
    }
}

fn place(id: crate::types::NodeId, region: RegionId, hlc: HlcTimestamp) -> Node {
    Node {
        id,
        name: String::new(),
        kind: NodeKind::Warehouse,
        region,
        country: "DE".to_owned(),
        latitude_e6: 0,
        longitude_e6: 0,
        capacity_per_day: 1,
        backlog: 0,
        carriers: Vec::new(),
        costs: BTreeMap::new(),
        active: true,
        hlc,
    }
}
