//! A scenario: which load is driven, and what is broken from when to when. Read from TOML, checked as a whole.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

use crate::boot::local::Component;
use crate::types::RegionId;

/// The longest load, in seconds: nobody watches a scenario for longer.
const SECONDS_MAX: u64 = 180;

/// More orders a second would measure this machine, which the driver shares with three regions.
const RATE_MAX: u64 = 200;

/// Each shopper of a sale has a connection of their own.
const SHOPPERS_MAX: u64 = 3_000;

/// SKUs of the steady load. More would sell too seldom to show anything of each.
const SKUS_MAX: u64 = 100;

/// Units of a SKU that is to sell out. At the highest rate no more are sold in a run.
const UNITS_MAX: u64 = 100_000;

/// Faults of one scenario; more would not be told apart in its picture.
const FAULTS_MAX: usize = 24;

/// The shortest half period of a link that flaps: a change takes the supervisor some milliseconds.
const FLAP_MS_MIN: u64 = 200;

/// What is played.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// In one line.
    pub(super) title: String,
    /// For so long orders are begun.
    pub(super) seconds: u64,
    /// Shoppers who order all the time.
    pub(super) load: Option<Load>,
    /// A crowd that wants more of one thing than there is.
    pub(super) sale: Option<Sale>,
    /// What is broken.
    #[serde(default)]
    pub(super) faults: Vec<Fault>,
}

/// Shoppers at a steady rate, shared evenly among the regions.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    /// Over all regions.
    pub(super) orders_per_second: u64,
    /// So many of a hundred shoppers hang up on their first try and ask again in another region.
    #[serde(default)]
    pub(super) hang_up_percent: u64,
    /// Orders are placed with `durability: remote`.
    #[serde(default)]
    pub(super) remote: bool,
    /// How many SKUs they choose from.
    #[serde(default = "ten")]
    pub(super) skus: u64,
    /// Units of each SKU, spread evenly over the regions: scarce, so that it may sell out. Without it there is more than
    /// is wanted.
    pub(super) units: Option<u64>,
    /// All shoppers are at home in one region, and in the next one after so many seconds, and so on. Without it they are of
    /// all regions.
    pub(super) moves_on_s: Option<u64>,
}

impl Load {
    /// Where the shopper of this number is at home.
    pub(super) fn home(self, regions: &[RegionId], serial: u64) -> RegionId {
        let turn = self.moves_on_s.map(|seconds| serial / (self.orders_per_second * seconds));
        home(regions, turn.unwrap_or(serial))
    }
}

fn ten() -> u64 {
    10
}

/// A flash sale.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sale {
    /// Each wants one unit, in their own region.
    pub(super) shoppers: u64,
    /// Spread evenly over the regions.
    pub(super) units: u64,
    /// The second at which they all come.
    #[serde(default)]
    pub(super) from: u64,
    /// All shoppers are at home there; without it they are of all regions.
    pub(super) region: Option<RegionId>,
}

impl Sale {
    /// Where the shopper of this number is at home.
    pub(super) fn home(self, regions: &[RegionId], serial: u64) -> RegionId {
        self.region.unwrap_or_else(|| home(regions, serial))
    }
}

/// Where shoppers of all regions are at home, by their number.
pub(super) fn home(regions: &[RegionId], serial: u64) -> RegionId {
    let index = usize::try_from(serial % regions.len() as u64);
    regions[index.expect("less than the number of regions")]
}

/// Something that is broken for a while.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// The second at which it begins.
    pub(super) from: u64,
    /// The second at which it is healed.
    pub(super) to: u64,
    /// What.
    pub(super) inflict: Inflict,
}

/// Kinds of faults.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Inflict {
    /// `kill -9`; started again at the end.
    Kill(Programs),
    /// SIGSTOP; thawed at the end.
    Freeze(Programs),
    /// Nothing passes between two groups of regions.
    Cut(Cut),
    /// Links are slow, or lose data.
    Slow(Slow),
    /// A broker loses what it acknowledged, and is there again at the end.
    ForgetBroker(ForgetBroker),
    /// Nothing can be written any more where the region keeps its data.
    FillDisk(Disk),
    /// An image of the region's database is made; its PostgreSQL is down meanwhile.
    Image(Disk),
    /// The region is gone with its data, and the others take over what it had not sold; at the end it comes back on its
    /// image, and begins anew.
    Destroy(Disk),
    /// The region is killed, and the others take over what it had not sold above its ceilings; at the end it is started on
    /// its disks, and rejoins.
    Lose(Disk),
    /// The region is given up while it lives; at the end it takes orders again.
    Evacuate(Disk),
    /// The region's time of day is wrong.
    SetClock(Ahead),
    /// Shoppers pay with these cards in turn: the payment simulator does what their names say.
    PayWith(Vec<String>),
}

/// Programs of a region.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Programs {
    pub(super) region: RegionId,
    #[serde(default = "everything")]
    pub(super) component: Component,
}

fn everything() -> Component {
    Component::All
}

/// All links between the regions of one group and those of another.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cut {
    pub(super) between: Vec<RegionId>,
    pub(super) and: Vec<RegionId>,
    /// Only what travels from the first group to the second.
    #[serde(default)]
    pub(super) one_way: bool,
    /// The links are up and down in turn, each for so long.
    pub(super) flap_ms: Option<u64>,
}

/// All links.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slow {
    /// As slow as measured between the regions of a cloud.
    #[serde(default)]
    pub(super) wan: bool,
    /// The latency varies by up to this much more.
    #[serde(default)]
    pub(super) jitter_ms: u64,
    /// So many pieces of a hundred have to be sent again.
    #[serde(default)]
    pub(super) loss_percent: u32,
}

/// A region's NATS server.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForgetBroker {
    pub(super) region: RegionId,
    pub(super) what: Forgotten,
}

/// What a broker forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Forgotten {
    /// Its whole store.
    All,
    /// What it acknowledged while the fault lasted, as after a power loss.
    Tail,
}

/// A region's disk.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    pub(super) region: RegionId,
}

/// A region's clock.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ahead {
    pub(super) region: RegionId,
    /// Behind, if it is negative.
    pub(super) ahead_s: i64,
}

/// Why a text is no scenario.
#[derive(Debug, thiserror::Error)]
#[error("scenario {name}: {why}")]
pub(super) struct BadScenario {
    name: String,
    why: String,
}

impl Scenario {
    /// Reads and checks a scenario.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, BadScenario> {
        let bad = |why: String| BadScenario { name: name.to_owned(), why };
        let scenario: Self = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        scenario.check().map_err(bad)?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let within = |what: &str, value: u64, max: u64| match value {
            0 => Err(format!("`{what}` must be 1 or more")),
            _ if value > max => Err(format!("`{what}` is {value}; at most {max}")),
            _ => Ok(()),
        };
        within("seconds", self.seconds, SECONDS_MAX)?;
        if self.load.is_none() && self.sale.is_none() {
            return Err("there is neither `[load]` nor `[sale]`: nothing would be ordered".into());
        }
        if let Some(load) = self.load {
            within("orders_per_second", load.orders_per_second, RATE_MAX)?;
            within("skus", load.skus, SKUS_MAX)?;
            within("units", load.units.unwrap_or(1), UNITS_MAX)?;
            within("moves_on_s", load.moves_on_s.unwrap_or(1), SECONDS_MAX)?;
            if load.hang_up_percent > 100 {
                return Err("`hang_up_percent` is more than all".into());
            }
        }
        if let Some(sale) = self.sale {
            within("shoppers", sale.shoppers, SHOPPERS_MAX)?;
            within("units", sale.units, sale.shoppers)?;
            if sale.from >= self.seconds {
                return Err(format!("the sale begins at {}, which is too late", sale.from));
            }
        }
        if self.faults.len() > FAULTS_MAX {
            return Err(format!("{} faults; at most {FAULTS_MAX}", self.faults.len()));
        }
        let image_of = |region: RegionId, before: u64| {
            let made = |fault: &Fault| {
                matches!(&fault.inflict, Inflict::Image(disk) if disk.region == region)
                    && fault.to <= before
            };
            self.faults.iter().any(made)
        };
        for (index, fault) in self.faults.iter().enumerate() {
            if let Inflict::Destroy(disk) = &fault.inflict
                && !image_of(disk.region, fault.from)
            {
                return Err(format!(
                    "fault {}: no image of {} is made before",
                    index + 1,
                    disk.region
                ));
            }
            fault.check(self.seconds).map_err(|why| format!("fault {}: {why}", index + 1))?;
        }
        Ok(())
    }

    /// Regions whose data is lost for ever.
    pub(super) fn destroyed(&self) -> BTreeSet<RegionId> {
        let lost = self.faults.iter().filter_map(|fault| match &fault.inflict {
            Inflict::Destroy(disk) => Some(disk.region),
            Inflict::Kill(_)
            | Inflict::Freeze(_)
            | Inflict::Cut(_)
            | Inflict::Slow(_)
            | Inflict::ForgetBroker(_)
            | Inflict::FillDisk(_)
            | Inflict::Image(_)
            | Inflict::Lose(_)
            | Inflict::Evacuate(_)
            | Inflict::SetClock(_)
            | Inflict::PayWith(_) => None,
        });
        lost.collect()
    }

    /// The stock of the steady load may sell out, so that a shopper may be refused.
    pub(super) fn is_scarce(&self) -> bool {
        self.load.is_some_and(|load| load.units.is_some())
    }

    /// A region is lost and comes back with its data.
    pub(super) fn loses(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.inflict, Inflict::Lose(_)))
    }

    /// An operator moves all rights of a region.
    pub(super) fn evacuates(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.inflict, Inflict::Evacuate(_)))
    }

    /// Every region that is named.
    pub(super) fn regions(&self) -> BTreeSet<RegionId> {
        let of_faults = self.faults.iter().flat_map(|fault| fault.inflict.regions());
        of_faults.chain(self.sale.and_then(|sale| sale.region)).collect()
    }
}

impl Fault {
    fn check(&self, seconds: u64) -> Result<(), String> {
        let Self { from, to, inflict } = self;
        if from >= to || *to > seconds {
            return Err(format!("from {from} to {to} is not within the {seconds} seconds of load"));
        }
        match inflict {
            Inflict::Cut(cut) => {
                let (one, other): (BTreeSet<_>, BTreeSet<_>) =
                    (cut.between.iter().collect(), cut.and.iter().collect());
                if one.is_empty() || other.is_empty() || !one.is_disjoint(&other) {
                    return Err("a cut is between two groups that have no region in common".into());
                }
                if cut.flap_ms.is_some_and(|ms| ms < FLAP_MS_MIN) {
                    return Err(format!("`flap_ms` must be {FLAP_MS_MIN} or more"));
                }
            }
            Inflict::Slow(slow) if slow.loss_percent > 100 => {
                return Err("`loss_percent` is more than all".into());
            }
            Inflict::PayWith(cards) if cards.is_empty() => {
                return Err("`pay_with` names no card".into());
            }
            Inflict::Kill(_)
            | Inflict::Freeze(_)
            | Inflict::Slow(_)
            | Inflict::ForgetBroker(_)
            | Inflict::FillDisk(_)
            | Inflict::Image(_)
            | Inflict::Destroy(_)
            | Inflict::Lose(_)
            | Inflict::Evacuate(_)
            | Inflict::SetClock(_)
            | Inflict::PayWith(_) => {}
        }
        Ok(())
    }
}

impl Inflict {
    /// The region whose shoppers may notice. One whose links or broker are broken has to go on as if nothing
    /// were.
    pub(super) fn hits(&self) -> Option<RegionId> {
        match self {
            Self::Kill(programs) | Self::Freeze(programs) => {
                (programs.component != Component::Nats).then_some(programs.region)
            }
            Self::FillDisk(disk)
            | Self::Image(disk)
            | Self::Destroy(disk)
            | Self::Lose(disk)
            | Self::Evacuate(disk) => Some(disk.region),
            Self::ForgetBroker(_)
            | Self::Cut(_)
            | Self::Slow(_)
            | Self::SetClock(_)
            | Self::PayWith(_) => None,
        }
    }

    /// The cards that shoppers pay with.
    pub(super) fn cards(&self) -> Option<&[String]> {
        if let Self::PayWith(cards) = self { Some(cards) } else { None }
    }

    /// The regions it is about.
    pub(super) fn regions(&self) -> Vec<RegionId> {
        match self {
            Self::Kill(programs) | Self::Freeze(programs) => vec![programs.region],
            Self::ForgetBroker(broker) => vec![broker.region],
            Self::FillDisk(disk)
            | Self::Image(disk)
            | Self::Destroy(disk)
            | Self::Lose(disk)
            | Self::Evacuate(disk) => vec![disk.region],
            Self::SetClock(clock) => vec![clock.region],
            Self::Cut(cut) => cut.between.iter().chain(&cut.and).copied().collect(),
            Self::Slow(_) | Self::PayWith(_) => Vec::new(),
        }
    }
}

/// In the words of the running line and the picture.
impl fmt::Display for Inflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |regions: &[RegionId]| {
            regions.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
        };
        let programs = |programs: &Programs| match programs.component {
            Component::All => programs.region.to_string(),
            Component::Server => format!("{}'s server", programs.region),
            Component::Postgres => format!("{}'s PostgreSQL", programs.region),
            Component::Nats => format!("{}'s NATS", programs.region),
        };
        match self {
            Self::Kill(of) => write!(f, "{} killed", programs(of)),
            Self::Freeze(of) => write!(f, "{} frozen", programs(of)),
            Self::Cut(cut) => {
                let arrow = if cut.one_way { "→" } else { "↔" };
                let how = if cut.flap_ms.is_some() { "flapping" } else { "cut" };
                write!(f, "{} {arrow} {} {how}", names(&cut.between), names(&cut.and))
            }
            Self::Slow(slow) => {
                f.write_str(if slow.wan { "links at WAN latency" } else { "links" })?;
                if slow.jitter_ms > 0 {
                    write!(f, ", up to {} ms more", slow.jitter_ms)?;
                }
                if slow.loss_percent > 0 {
                    write!(f, ", {} % lost", slow.loss_percent)?;
                }
                Ok(())
            }
            Self::ForgetBroker(ForgetBroker { region, what }) => match what {
                Forgotten::All => write!(f, "{region}'s NATS store wiped"),
                Forgotten::Tail => write!(f, "{region}'s NATS loses this tail"),
            },
            Self::FillDisk(disk) => write!(f, "{}'s disk full", disk.region),
            Self::Image(disk) => write!(f, "image of {} made", disk.region),
            Self::Destroy(disk) => write!(f, "{} destroyed and fenced", disk.region),
            Self::Lose(disk) => write!(f, "{} lost and fenced", disk.region),
            Self::Evacuate(disk) => write!(f, "{} given up", disk.region),
            Self::SetClock(Ahead { region, ahead_s }) => {
                write!(f, "{region}'s clock off by {ahead_s} s")
            }
            Self::PayWith(cards) => {
                let odd: BTreeSet<_> =
                    cards.iter().filter_map(|card| card.strip_prefix("tok_")).collect();
                let odd: Vec<_> = odd.into_iter().filter(|card| *card != "ok").collect();
                write!(f, "provider: {}", odd.join(", "))
            }
        }
    }
}

/// What is done when: a fault begins or ends. A link that flaps does so many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    /// Since the load began.
    pub(super) at_ms: u64,
    /// The fault, by its place in the scenario.
    pub(super) fault: usize,
    /// It is there from now on, or not any more.
    pub(super) on: bool,
    /// It comes again: only its last step heals it.
    pub(super) again: bool,
}

/// All steps, in order.
pub(super) fn steps(faults: &[Fault]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, fault) in faults.iter().enumerate() {
        let (from_ms, to_ms) = (fault.from * 1_000, fault.to * 1_000);
        let mut step = |at_ms, on, again| steps.push(Step { at_ms, fault: index, on, again });
        step(from_ms, true, false);
        if let Inflict::Cut(Cut { flap_ms: Some(every_ms), .. }) = fault.inflict {
            let turns = (to_ms - from_ms) / every_ms;
            for turn in 1..turns {
                step(from_ms + turn * every_ms, turn % 2 == 0, true);
            }
        }
        step(to_ms, false, false);
    }
    steps.sort_by_key(|step| (step.at_ms, step.on, step.fault));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: &str = "title = \"t\"\nseconds = 20\n[load]\norders_per_second = 40\n";

    fn fault(text: &str) -> Result<Scenario, BadScenario> {
        Scenario::parse("some", &format!("{LOAD}[[faults]]\n{text}"))
    }

    #[test]
    fn a_scenario_that_says_nonsense_is_refused_with_the_reason() {
        for (text, reason) in [
            ("from = 5\nto = 5\ninflict.kill = { region = \"a\" }", "not within"),
            ("from = 5\nto = 21\ninflict.kill = { region = \"a\" }", "not within"),
            ("from = 1\nto = 2\ninflict.kill = { region = \"a\", component = \"disk\" }", "disk"),
            ("from = 1\nto = 2\ninflict.melt = { region = \"a\" }", "melt"),
            ("from = 1\nto = 2\ninflict.cut = { between = [\"a\"], and = [\"a\"] }", "in common"),
            (
                "from = 1\nto = 2\ninflict.cut = { between = [\"a\"], and = [\"b\"], flap_ms = 1 }",
                "flap_ms",
            ),
            ("from = 1\nto = 2\ninflict.slow = { loss_percent = 101 }", "loss_percent"),
            ("from = 1\nto = 2\ninflict.pay_with = []", "no card"),
            ("from = 1\nto = 2\ninflict.destroy = { region = \"a\" }", "no image"),
        ] {
            let refused = fault(text).unwrap_err().to_string();
            assert!(refused.contains(reason) && refused.starts_with("scenario some"), "{refused}");
        }
        let late = Scenario::parse(
            "late",
            "title = \"t\"\nseconds = 20\n[sale]\nshoppers = 2\nunits = 1\nfrom = 20",
        );
        assert!(late.unwrap_err().to_string().contains("too late"));
        let idle = Scenario::parse("idle", "title = \"t\"\nseconds = 20").unwrap_err();
        assert!(idle.to_string().contains("nothing would be ordered"), "{idle}");
    }

    #[test]
    fn a_link_that_flaps_goes_down_and_up_in_turn_and_ends_up() {
        let flapping = "from = 1\nto = 3\n\
                        inflict.cut = { between = [\"a\"], and = [\"b\"], flap_ms = 500 }";
        let scenario = fault(flapping).unwrap();
        let seen: Vec<_> = steps(&scenario.faults)
            .into_iter()
            .map(|step| (step.at_ms, step.on, step.again))
            .collect();
        let expected = [
            (1_000, true, false),
            (1_500, false, true),
            (2_000, true, true),
            (2_500, false, true),
            (3_000, false, false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn shoppers_are_of_all_regions_in_turn_or_of_one_after_the_other() {
        let regions = ["a", "b", "c"].map(|name| name.parse().unwrap());
        let homes = |more: &str, serials: &[u64]| {
            let load = Scenario::parse("t", &format!("{LOAD}{more}")).unwrap().load.unwrap();
            let homes = serials.iter().map(|serial| load.home(&regions, *serial).to_string());
            homes.collect::<Vec<_>>().concat()
        };
        assert_eq!(homes("", &[0, 1, 2, 3]), "abca");
        assert_eq!(homes("moves_on_s = 5", &[0, 199, 200, 399, 400, 600]), "aabbca");
    }

    #[test]
    fn only_broken_programs_that_serve_excuse_a_region() {
        for (text, hit) in [
            ("inflict.kill = { region = \"a\" }", true),
            ("inflict.freeze = { region = \"a\", component = \"postgres\" }", true),
            ("inflict.kill = { region = \"a\", component = \"nats\" }", false),
            ("inflict.cut = { between = [\"a\"], and = [\"b\"] }", false),
        ] {
            let scenario = fault(&format!("from = 1\nto = 2\n{text}")).unwrap();
            assert_eq!(scenario.faults[0].inflict.hits().is_some(), hit, "{text}");
        }
    }
}
