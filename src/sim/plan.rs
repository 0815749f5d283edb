//! What happens in one run: the shoppers' orders, the faults, and how bad the network is. Everything is
//! drawn from the seed before the run begins, so that a failing run can be made smaller by leaving
//! entries out, and written to a file.

use serde::{Deserialize, Serialize};

use super::dice::Dice;

/// How large a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Regions, of [`REGIONS`].
    pub regions: usize,
    /// Orders.
    pub orders: usize,
    /// The last of the regions only votes, in every world; else in some.
    pub witness: bool,
}

impl Default for Size {
    fn default() -> Self {
        Self { regions: REGIONS_USUAL, orders: 200, witness: false }
    }
}

/// The regions of every world, numbered from 1.
pub const REGIONS: [&str; 7] =
    ["us-east", "eu-west", "ap-south", "us-west", "ap-northeast", "sa-east", "eu-north"];

/// How many of them a world has where nobody says anything else.
pub const REGIONS_USUAL: usize = 3;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What everything else that is random in the run is drawn from.
    pub seed: u64,
    /// The first so many of [`REGIONS`].
    pub regions: usize,
    /// The last of them votes and keeps copies, and sells nothing.
    #[serde(default)]
    pub witness: bool,
    /// How long faults go on; then everything is healed.
    pub storm_ms: u64,
    /// How bad things are.
    pub knobs: Knobs,
    /// What is on the shelves at the beginning: by SKU, at the nodes of the regions.
    pub stock: Vec<Vec<u64>>,
    /// In order of time.
    pub entries: Vec<Entry>,
}

/// Faults that may strike at any time, so often in a thousand times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knobs {
    /// Messages between regions that are lost.
    pub drop_permille: u64,
    /// Messages between regions that arrive twice.
    pub double_permille: u64,
    /// Messages between regions that are overtaken.
    pub reorder_permille: u64,
    /// By as much at most.
    pub reorder_ms_max: u64,
    /// Commits whose answer gets lost, done or not.
    pub unknown_commit_permille: u64,
    /// Calls to the database that fail.
    pub database_error_permille: u64,
    /// Calls to the payment provider whose answer gets lost.
    pub provider_silent_permille: u64,
    /// Calls to the payment provider that are answered with an error, carried out or not.
    pub provider_error_permille: u64,
    /// Look-ups that the provider answers from before its last change.
    pub provider_stale_permille: u64,
    /// Webhooks that never come.
    pub webhook_lost_permille: u64,
}

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// What.
    pub action: Action,
}

/// What may happen. Regions are told by their place in [`REGIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A shopper orders.
    Order(Shopping),
    /// Units arrive at a region's node, or are found missing there.
    Adjust {
        /// Which region's node.
        region: usize,
        /// Which SKU.
        sku: usize,
        /// By how many.
        by: i64,
    },
    /// An operator moves rights.
    Transfer {
        /// Who gives.
        from: usize,
        /// Who gets.
        to: usize,
        /// Of which SKU.
        sku: usize,
        /// Lying at which region's node.
        node: usize,
        /// How many.
        units: u64,
    },
    /// A region's server is killed and comes back.
    Crash {
        /// Which.
        region: usize,
        /// How long it is away.
        down_ms: u64,
    },
    /// A backup is made of a region's database, and put in place of it a while later: the region forgets
    /// what it wrote in between.
    SetBack {
        /// Whose.
        region: usize,
        /// How much it forgets.
        after_ms: u64,
    },
    /// A region is destroyed with everything it kept, and built again on an empty database.
    Destroyed {
        /// Which.
        region: usize,
        /// How long it is away.
        down_ms: u64,
    },
    /// A region is destroyed with everything it kept, declared dead and then gone for good, and built again on an empty
    /// database.
    Retired {
        /// Which.
        region: usize,
        /// Who takes over from it.
        by: usize,
        /// How long it is away.
        down_ms: u64,
    },
    /// A region is given up while it lives, and takes orders again a while later.
    Evacuate {
        /// Which.
        region: usize,
        /// Who gets everything.
        to: usize,
        /// How long it takes no orders.
        lasts_ms: u64,
    },
    /// A region's database is gone, and comes back with everything it had acknowledged.
    DatabaseDown {
        /// Whose.
        region: usize,
        /// How long.
        down_ms: u64,
    },
    /// A region's database takes its time.
    DatabaseSlow {
        /// Whose.
        region: usize,
        /// A call takes so many times as long.
        factor: u64,
        /// How long.
        lasts_ms: u64,
    },
    /// A region's broker forgets the last messages it had confirmed.
    BrokerForgets {
        /// Whose.
        region: usize,
        /// How many; all when there are fewer.
        messages: usize,
    },
    /// Nothing goes from one region to another.
    Cut {
        /// From where.
        from: usize,
        /// To where.
        to: usize,
        /// The other way neither.
        both: bool,
        /// How long.
        lasts_ms: u64,
    },
    /// A link is slow.
    Slow {
        /// From where.
        from: usize,
        /// To where.
        to: usize,
        /// A message takes so many times as long.
        factor: u64,
        /// How long.
        lasts_ms: u64,
    },
    /// A region's wall clock jumps.
    ClockJumps {
        /// Whose.
        region: usize,
        /// By how much.
        by_ms: i64,
    },
    /// An operator changes a product in a region.
    Rename {
        /// Where.
        region: usize,
        /// Which SKU.
        sku: usize,
    },
    /// A region's database goes on as its next incarnation; the server knows nothing of that.
    NextEpoch {
        /// Whose.
        region: usize,
    },
    /// The payment provider is gone.
    ProviderDown {
        /// How long.
        lasts_ms: u64,
    },
    /// An operator declares a region dead, rightly or not. It rejoins once everything is healed.
    Fence {
        /// Who is asked to.
        by: usize,
        /// Whom.
        lost: usize,
    },
    /// An operator drains a region, and resumes it.
    Drain {
        /// Which.
        region: usize,
        /// How long.
        lasts_ms: u64,
    },
}

/// A shopper's way to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shopping {
    /// Names the intent, together with the customer.
    pub key: u64,
    /// Who.
    pub customer: u64,
    /// SKU and quantity of each line.
    pub lines: Vec<(usize, u32)>,
    /// What the payment form gave: one for all, or a second one for what the first leaves.
    pub tokens: Vec<String>,
    /// The channel's own name of the order.
    pub reference: Option<u64>,
    /// Where it is tried, one after the other, until there is an answer; and after how many
    /// milliseconds the shopper hangs up. The first region is the shopper's own.
    pub tries: Vec<(usize, u64)>,
}

/// Worlds in which nothing breaks, so that what only holds then is looked at too.
const CALM_PERMILLE: u64 = 80;

/// Changes of products where there are any: several of some SKU, in different regions.
const RENAMES: usize = 6;

/// The tokens that shoppers pay with. Those that work come more often, or nothing would ever be sold.
const TOKENS: &[&str] = &[
    "tok_ok",
    "tok_ok",
    "tok_ok",
    "tok_ok",
    "tok_ok",
    "tok_ok",
    "tok_ok",
    "tok_ok",
    "tok_declined",
    "tok_insufficient_funds",
    "tok_fraud",
    "tok_slow_400",
    "tok_slow_4000",
    "tok_flaky_1",
    "tok_flaky_3",
    "tok_async",
    "tok_timeout_charged",
    "tok_nonsense",
];

/// Worlds whose faults go on for so long that orders of lost regions are taken over.
const LONG_PERMILLE: u64 = 250;

/// Of these, those with a region that is cut off and fenced for longer than its lease.
const LOST_PERMILLE: u64 = 700;
/// So many of the others see one destroyed, and retired.
const RETIRED_PERMILLE: u64 = 500;
/// And so many of these see another one set back, when the end of the first is known there or is not.
const SET_BACK_PERMILLE: u64 = 500;

/// Worlds of three whose third region is a witness.
const WITNESS_PERMILLE: u64 = 125;

impl Plan {
    /// Draws a run.
    pub fn draw(seed: u64, size: Size) -> Self {
        let mut dice = Dice::of(seed, "plan");
        let regions = size.regions.clamp(1, REGIONS.len());
        let is_drawn = regions == 3 && Dice::of(seed, "witness").chance(WITNESS_PERMILLE);
        let witness = regions > 1 && (size.witness || is_drawn);
        let sellers = regions - usize::from(witness);
        // Some last longer than an order lease.
        let lasts_long = dice.chance(LONG_PERMILLE);
        let storm_ms =
            if lasts_long { dice.between(15_000, 30_000) } else { dice.between(6_000, 12_000) };
        let is_calm = dice.chance(CALM_PERMILLE);
        let knobs = if is_calm { Knobs::default() } else { Knobs::draw(&mut dice) };
        let skus = dice.between(3, 6);
        let shelf = |_| {
            let shelf = shelf(&mut dice, sellers);
            if is_calm { gathered(&mut dice, &shelf) } else { shelf }
        };
        let stock: Vec<Vec<u64>> = (0..skus).map(shelf).collect();
        let mut draw = Draw { regions, sellers, skus: stock.len(), storm_ms };
        let mut entries = Vec::new();
        for key in 0..u64::try_from(size.orders).unwrap_or(0) {
            draw.order(&mut dice, key, &mut entries);
        }
        let faults = if is_calm { 0 } else { dice.pick(&[0, 1, 2, 3, 5, 8]) };
        for _ in 0..faults {
            entries.push(draw.fault(&mut dice));
        }
        if lasts_long && !is_calm && dice.chance(LOST_PERMILLE) {
            draw.lost(&mut dice, &mut entries);
        } else if lasts_long && !is_calm && dice.chance(RETIRED_PERMILLE) {
            draw.retired(&mut dice, &mut entries);
        }
        let renames = if is_calm { 0 } else { dice.pick(&[0, 0, RENAMES]) };
        for _ in 0..renames {
            entries.push(draw.rename(&mut dice));
        }
        entries.sort_by_key(|entry| entry.at_ms);
        Self { seed, regions, witness, storm_ms, knobs, stock, entries }
    }
}

impl Plan {
    /// Nothing breaks in it but payments.
    pub fn is_calm(&self) -> bool {
        let Knobs {
            drop_permille,
            double_permille: _,
            reorder_permille: _,
            reorder_ms_max: _,
            unknown_commit_permille,
            database_error_permille,
            provider_silent_permille: _,
            provider_error_permille: _,
            provider_stale_permille: _,
            webhook_lost_permille: _,
        } = self.knobs;
        let is_order = |entry: &Entry| matches!(entry.action, Action::Order(_));
        drop_permille + unknown_commit_permille + database_error_permille == 0
            && self.entries.iter().all(is_order)
    }

    /// Nothing breaks but connections to databases, after a call was carried out or before.
    pub fn loses_only_answers(&self) -> bool {
        let goes_on = |entry: &Entry| {
            !matches!(
                entry.action,
                Action::Crash { .. }
                    | Action::SetBack { .. }
                    | Action::Destroyed { .. }
                    | Action::Retired { .. }
                    | Action::NextEpoch { .. }
                    | Action::DatabaseDown { .. }
                    | Action::DatabaseSlow { .. }
            )
        };
        self.knobs.database_error_permille == 0 && self.entries.iter().all(goes_on)
    }

    /// A plan that was read from a file must only name what there is.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=REGIONS.len()).contains(&self.regions) {
            return Err(format!("`regions` must be 1 to {}", REGIONS.len()));
        }
        if self.witness && self.regions == 1 {
            return Err("`witness`: one region must sell".to_owned());
        }
        if !self.entries.is_sorted_by_key(|entry| entry.at_ms) {
            return Err("`entries` must be in order of time".to_owned());
        }
        let is_known = |entry: &Entry| {
            let (regions, skus) = entry.action.names();
            let sells = matches!(entry.action, Action::Order(_) | Action::Adjust { .. });
            let end = self.regions - usize::from(self.witness && sells);
            regions.iter().all(|index| *index < end)
                && skus.iter().all(|index| *index < self.stock.len())
        };
        match self.entries.iter().find(|entry| !is_known(entry)) {
            None => Ok(()),
            Some(entry) => Err(format!("an unknown region or SKU: {entry:?}")),
        }
    }
}

impl Action {
    /// The regions and SKUs that it names.
    fn names(&self) -> (Vec<usize>, Vec<usize>) {
        match self {
            Self::Order(shopping) => (
                shopping.tries.iter().map(|(region, _)| *region).collect(),
                shopping.lines.iter().map(|(sku, _)| *sku).collect(),
            ),
            Self::Adjust { region, sku, .. } | Self::Rename { region, sku } => {
                (vec![*region], vec![*sku])
            }
            Self::Transfer { from, to, sku, node, .. } => (vec![*from, *to, *node], vec![*sku]),
            Self::Crash { region, .. }
            | Self::SetBack { region, .. }
            | Self::Destroyed { region, .. }
            | Self::DatabaseDown { region, .. }
            | Self::DatabaseSlow { region, .. }
            | Self::BrokerForgets { region, .. }
            | Self::ClockJumps { region, .. }
            | Self::NextEpoch { region }
            | Self::Drain { region, .. } => (vec![*region], Vec::new()),
            Self::Cut { from, to, .. } | Self::Slow { from, to, .. } => {
                (vec![*from, *to], Vec::new())
            }
            Self::Fence { by, lost } => (vec![*by, *lost], Vec::new()),
            Self::Evacuate { region, to, .. } | Self::Retired { region, by: to, .. } => {
                (vec![*region, *to], Vec::new())
            }
            Self::ProviderDown { .. } => (Vec::new(), Vec::new()),
        }
    }
}

impl Knobs {
    fn draw(dice: &mut Dice) -> Self {
        // A third of all runs has an honest network, database or provider each.
        Self {
            drop_permille: dice.pick(&[0, 3, 30]),
            double_permille: dice.pick(&[0, 5, 50]),
            reorder_permille: dice.pick(&[0, 10, 100]),
            reorder_ms_max: dice.pick(&[50, 400, 2_000]),
            unknown_commit_permille: dice.pick(&[0, 0, 4, 20]),
            database_error_permille: dice.pick(&[0, 0, 2, 10]),
            provider_silent_permille: dice.pick(&[0, 0, 10]),
            provider_error_permille: dice.pick(&[0, 10, 60]),
            provider_stale_permille: dice.pick(&[0, 0, 100]),
            webhook_lost_permille: dice.pick(&[0, 300, 1_000]),
        }
    }
}

/// Much, little, or the famous last units.
fn shelf(dice: &mut Dice, regions: usize) -> Vec<u64> {
    let most = dice.pick(&[3, 12, 60, 200, 400]);
    (0..regions).map(|_| dice.below(most + 1)).collect()
}

/// All of it in one region, so that the others have to ask.
fn gathered(dice: &mut Dice, shelf: &[u64]) -> Vec<u64> {
    let (holder, all) = (dice.index(shelf.len()), shelf.iter().sum());
    (0..shelf.len()).map(|region| if region == holder { all } else { 0 }).collect()
}

fn two_of(regions: usize, dice: &mut Dice) -> (usize, usize) {
    let from = dice.index(regions);
    let step = 1 + dice.index((regions - 1).max(1));
    (from, (from + step) % regions)
}

struct Draw {
    regions: usize,
    /// The first so many of them.
    sellers: usize,
    skus: usize,
    storm_ms: u64,
}

impl Draw {
    fn order(&mut self, dice: &mut Dice, key: u64, entries: &mut Vec<Entry>) {
        let at_ms = dice.below(self.storm_ms);
        let count = dice.pick(&[1, 1, 1, 2, 3]);
        let line = |_| (dice.index(self.skus), dice.pick(&[1, 1, 1, 2, 5]));
        let lines = (0..count).map(line).collect();
        // One that never answers holds its saga for most of a minute: seldom, and early.
        let mut tokens = vec![if dice.chance(6) && at_ms < self.storm_ms / 2 {
            "tok_timeout_lost"
        } else {
            dice.pick(TOKENS)
        }];
        if dice.chance(100) {
            tokens.push(dice.pick(TOKENS));
        }
        let own = dice.index(self.sellers);
        let mut tries = vec![(own, dice.pick(&[300, 2_500, 6_000]))];
        for _ in 0..dice.pick(&[1, 2, 4]) {
            tries.push((dice.index(self.sellers), dice.pick(&[300, 2_500, 6_000])));
        }
        let shopping = Shopping {
            key,
            customer: dice.below(50),
            lines,
            tokens: tokens.into_iter().map(str::to_owned).collect(),
            reference: dice.chance(100).then(|| dice.below(10)),
            tries,
        };
        if dice.chance(40) {
            // The same request twice, as from two tabs.
            let tries = vec![(dice.index(self.sellers), 6_000)];
            let again = Shopping { tries, ..shopping.clone() };
            let at_ms = at_ms + dice.pick(&[0, 1, 30, 500]);
            entries.push(Entry { at_ms, action: Action::Order(again) });
        }
        entries.push(Entry { at_ms, action: Action::Order(shopping) });
    }

    fn two(&self, dice: &mut Dice) -> (usize, usize) {
        two_of(self.regions, dice)
    }

    fn two_sellers(&self, dice: &mut Dice) -> (usize, usize) {
        two_of(self.sellers, dice)
    }

    /// A region is cut off, or hears nobody, and another one fences it and takes over its orders.
    fn lost(&self, dice: &mut Dice, entries: &mut Vec<Entry>) {
        let lost = dice.index(self.regions);
        let (both, lasts_ms) = (dice.chance(500), dice.between(13_000, 20_000));
        // By then everybody has been heard.
        let at_ms = dice.between(2_500, 5_000);
        for other in (0..self.regions).filter(|other| *other != lost) {
            let action = Action::Cut { from: other, to: lost, both, lasts_ms };
            entries.push(Entry { at_ms, action });
        }
        let by = (lost + 1) % self.sellers;
        let fenced_ms = at_ms + dice.between(10, 2_000);
        entries.push(Entry { at_ms: fenced_ms, action: Action::Fence { by, lost } });
    }

    /// A region is gone for good. Of some the end is hardly known when another region's database is set back.
    fn retired(&self, dice: &mut Dice, entries: &mut Vec<Entry>) {
        let (by, region) = self.two_sellers(dice);
        let (at_ms, down_ms) = (dice.between(2_000, 8_000), dice.between(8_000, 14_000));
        entries.push(Entry { at_ms, action: Action::Retired { region, by, down_ms } });
        let other = (0..self.regions).find(|other| *other != by && *other != region);
        if let Some(region) = other.filter(|_| dice.chance(SET_BACK_PERMILLE)) {
            let at_ms = at_ms + dice.between(2_000, 8_000);
            let after_ms = dice.between(500, 3_000);
            entries.push(Entry { at_ms, action: Action::SetBack { region, after_ms } });
        }
    }

    fn rename(&self, dice: &mut Dice) -> Entry {
        let (region, sku) = (dice.index(self.regions), dice.index(self.skus));
        Entry { at_ms: dice.below(self.storm_ms), action: Action::Rename { region, sku } }
    }

    fn fault(&mut self, dice: &mut Dice) -> Entry {
        let region = dice.index(self.regions);
        let (from, to) = self.two(dice);
        let lasts_ms = dice.pick(&[200, 1_000, 3_000, 8_000]);
        let sku = dice.index(self.skus);
        let action = match dice.below(29) / 2 {
            0 | 1 => Action::Crash { region, down_ms: lasts_ms },
            2 => Action::DatabaseDown { region, down_ms: lasts_ms },
            3 => Action::DatabaseSlow { region, factor: dice.pick(&[5, 40, 400]), lasts_ms },
            4 => Action::BrokerForgets { region, messages: dice.pick(&[1, 5, 1_000]) },
            5 | 6 => Action::Cut { from, to, both: dice.chance(600), lasts_ms },
            7 => Action::Slow { from, to, factor: dice.pick(&[2, 5, 20]), lasts_ms },
            8 => {
                let by_ms: u64 = dice.pick(&[40, 400, 3_000, 20_000, 120_000]);
                let by_ms = i64::try_from(by_ms).unwrap_or(0);
                Action::ClockJumps { region, by_ms: if dice.chance(500) { by_ms } else { -by_ms } }
            }
            9 => Action::ProviderDown { lasts_ms },
            10 => {
                let by = i64::try_from(dice.between(1, 30)).unwrap_or(0);
                let region = region % self.sellers;
                Action::Adjust { region, sku, by: if dice.chance(500) { by } else { -by } }
            }
            13 => Action::Fence { by: to, lost: from },
            14 => Action::NextEpoch { region },
            12 if dice.chance(100) => {
                let (region, by) = self.two_sellers(dice);
                Action::Retired { region, by, down_ms: lasts_ms }
            }
            12 if dice.chance(200) => Action::Destroyed { region, down_ms: lasts_ms },
            12 if dice.chance(600) => Action::SetBack { region, after_ms: lasts_ms.min(3_000) },
            11 if dice.chance(400) => {
                let (region, to) = self.two_sellers(dice);
                Action::Evacuate { region, to, lasts_ms }
            }
            _ if dice.chance(500) => Action::Drain { region, lasts_ms },
            _ => {
                let (node, units) = (dice.index(self.sellers), dice.between(1, 20));
                Action::Transfer { from, to, sku, node, units }
            }
        };
        Entry { at_ms: dice.below(self.storm_ms), action }
    }
}
