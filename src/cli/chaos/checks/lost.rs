//! What becomes of the stock of a region that is lost while it sells out. Pure.
//!
//! What lies above the region's ceiling is taken over and sold by the others; what lies below may have been sold, and
//! nobody sells it before the region is back. All of it is read from what the other regions know and from what shoppers
//! were told while it was away.

use std::collections::BTreeMap;

use crate::cli::chaos::faults::Window;
use crate::cli::chaos::history::Wish;
use crate::cli::chaos::samples::{Account, Holding};
use crate::cli::chaos::scenario::{Fault, Inflict};
use crate::cli::chaos::verdict::Finding;
use crate::types::RegionId;

/// From the moment at which the region was killed, a little before it was fenced.
const SOLD_WITHIN_MS: u64 = 60_000;

/// A region that was lost for a while.
struct Loss<'a> {
    region: RegionId,
    window: Window,
    /// What it had as the others knew at last: its fence has told them of its ceiling.
    left: Holding,
    /// What the others said until it was started again, in the order in which they did.
    accounts: Vec<&'a Account>,
}

impl Loss<'_> {
    fn others<'b>(&'b self, account: &'b Account) -> impl Iterator<Item = &'b Holding> {
        account.holdings.iter().filter(|(region, _)| **region != self.region).map(|(_, of)| of)
    }

    fn to_ms(&self) -> u64 {
        self.window.to_ms.unwrap_or(u64::MAX)
    }
}

/// Those that the others could tell of; the others are `broken`.
fn losses<'a>(
    faults: &[Fault],
    windows: &[Window],
    accounts: &'a [Account],
    broken: &mut Vec<String>,
) -> Vec<Loss<'a>> {
    let mut losses = Vec::new();
    for window in windows {
        let Inflict::Lose(disk) = faults[window.fault].inflict else { continue };
        let (region, to_ms) = (disk.region, window.to_ms.unwrap_or(u64::MAX));
        let away = |account: &&Account| {
            account.by != region && account.at_ms > window.from_ms && account.at_ms < to_ms
        };
        let accounts: Vec<&Account> = accounts.iter().filter(away).collect();
        let left = accounts.iter().rev().find_map(|account| account.holdings.get(&region));
        let Some(&left) = left else {
            broken.push(format!("{region}: no other region could be asked while it was away"));
            continue;
        };
        losses.push(Loss { region, window: *window, left, accounts });
    }
    losses
}

/// Within a minute the others have sold everything that lies above the lost region's ceiling.
pub(in crate::cli::chaos) fn others_sell_what_it_left_within_60_s(
    faults: &[Fault],
    windows: &[Window],
    accounts: &[Account],
    stock: &BTreeMap<String, i64>,
) -> Finding {
    const CHECK: &str = "eventually_others_sell_what_it_left_within_60_s";
    let units: i64 = stock.values().sum();
    let (mut details, mut broken) = (Vec::new(), Vec::new());
    for loss in losses(faults, windows, accounts, &mut broken) {
        let Loss { region, left, .. } = loss;
        // What it had given to others is theirs and a part of its ceiling.
        let to_sell = units - (left.ceiling - left.given);
        let sold = |account: &Account| loss.others(account).map(|of| of.promised).sum::<i64>();
        let in_time =
            loss.accounts.iter().filter(|it| it.at_ms <= loss.window.from_ms + SOLD_WITHIN_MS);
        let sold_out = in_time.clone().find(|account| {
            sold(account) >= to_sell && loss.others(account).all(|of| of.rights == 0)
        });
        if let Some(account) = sold_out {
            details.push(format!(
                "ceiling of {region}: {} of {units} units; the others sold the other {to_sell} within {} ms",
                left.ceiling - left.given,
                account.at_ms - loss.window.from_ms
            ));
        } else {
            let sold = in_time.map(|account| sold(account)).max().unwrap_or(0);
            broken
                .push(format!("{sold} of the {to_sell} units above {region}'s ceiling were sold"));
        }
    }
    Finding::of(CHECK, details.join("; "), broken)
}

/// What nobody can sell while the region is away is no more than its ceiling had open. By what shoppers were told.
pub(in crate::cli::chaos) fn no_more_is_stranded_than_was_open(
    history: &[Wish],
    faults: &[Fault],
    windows: &[Window],
    accounts: &[Account],
    stock: &BTreeMap<String, i64>,
) -> Finding {
    const CHECK: &str = "eventually_no_more_is_stranded_than_was_open";
    let units: i64 = stock.values().sum();
    let (mut details, mut broken) = (Vec::new(), Vec::new());
    for loss in losses(faults, windows, accounts, &mut broken) {
        let Loss { region, left, .. } = loss;
        let told = |until_ms: u64, by: Option<RegionId>| -> i64 {
            let told = history.iter().filter(|wish| {
                wish.acknowledged().is_some_and(|told| {
                    told.at_ms <= until_ms && by.is_none_or(|by| told.by == Some(by))
                })
            });
            told.map(Wish::units).sum()
        };
        let stranded = units - told(loss.to_ms(), None);
        let open = left.ceiling - left.given - told(loss.window.from_ms, Some(region));
        details.push(format!(
            "{stranded} stranded in {region} (listed: {}), {open} were open",
            left.rights
        ));
        if stranded > open {
            broken.push(format!(
                "{region}: {stranded} units could not be sold while it was away, and only {open} lay below its ceiling"
            ));
        }
        let unknown = left.ceiling - left.given - left.promised;
        if left.rights > unknown {
            broken.push(format!(
                "{region}: the others list {} units as stranded, and know of {unknown} that it had open",
                left.rights
            ));
        }
    }
    Finding::of(CHECK, details.join("; "), broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::checks::testing::{acknowledged, wish};
    use crate::cli::chaos::scenario::Scenario;
    use crate::cli::chaos::verdict::Outcome;

    fn lost() -> Vec<Fault> {
        let text = "title = \"t\"\nseconds = 90\n[load]\norders_per_second = 1\n\
                    [[faults]]\nfrom = 1\nto = 80\ninflict.lose = { region = \"a\" }";
        Scenario::parse("t", text).unwrap().faults
    }

    const WINDOW: Window = Window { fault: 0, from_ms: 1_000, to_ms: Some(80_000) };

    /// Three units. The ceiling of `a` was one; it was lost before it sold any, and `b` sold two 30 s later.
    fn good() -> (Vec<Wish>, Vec<Account>, BTreeMap<String, i64>) {
        let holding = |promised, rights, ceiling| Holding { promised, given: 0, rights, ceiling };
        let account = |at_ms, of_a, of_b| {
            let holdings = [("a", of_a), ("b", of_b)];
            let holdings = holdings.map(|(name, of)| (name.parse().unwrap(), of)).into();
            Account { by: "b".parse().unwrap(), at_ms, holdings }
        };
        let accounts = vec![
            account(2_000, holding(0, 1, 1), holding(0, 2, 2)),
            account(31_000, holding(0, 1, 1), holding(2, 0, 2)),
        ];
        let told = |key: &str, at_ms| {
            let mut told = acknowledged(key, at_ms);
            if let crate::cli::chaos::history::Told::Acknowledged { by, .. } = &mut told.told {
                *by = Some("b".parse().unwrap());
            }
            wish(key, vec![told])
        };
        let history = vec![told("o1", 10_000), told("o2", 20_000)];
        (history, accounts, [("s".to_owned(), 3)].into())
    }

    fn outcomes(history: &[Wish], accounts: &[Account]) -> (Outcome, Outcome) {
        let (faults, (.., stock)) = (lost(), good());
        let sold = others_sell_what_it_left_within_60_s(&faults, &[WINDOW], accounts, &stock);
        let stranded =
            no_more_is_stranded_than_was_open(history, &faults, &[WINDOW], accounts, &stock);
        (sold.outcome, stranded.outcome)
    }

    const GOOD: (Outcome, Outcome) = (Outcome::Passed, Outcome::Passed);
    const UNSOLD: (Outcome, Outcome) = (Outcome::Failed, Outcome::Passed);
    const STRANDED: (Outcome, Outcome) = (Outcome::Passed, Outcome::Failed);
    const BOTH: (Outcome, Outcome) = (Outcome::Failed, Outcome::Failed);

    #[test]
    fn each_way_to_leave_units_behind_is_found() {
        let region = |name: &str| name.parse::<RegionId>().unwrap();
        let (history, accounts, _) = good();
        assert_eq!(outcomes(&history, &accounts), GOOD);

        let change = |change: &dyn Fn(&mut Vec<Wish>, &mut Vec<Account>)| {
            let (mut history, mut accounts, _) = good();
            change(&mut history, &mut accounts);
            outcomes(&history, &accounts)
        };
        let late = change(&|_, accounts| accounts[1].at_ms = 61_500);
        assert_eq!(late, UNSOLD, "later than a minute");
        let held_back = change(&|_, accounts| {
            accounts[1].holdings.get_mut(&region("b")).unwrap().rights = 1;
        });
        assert_eq!(held_back, UNSOLD, "something is left");
        let vanished = change(&|_, accounts| {
            accounts[1].holdings.get_mut(&region("b")).unwrap().promised = 1;
        });
        assert_eq!(vanished, UNSOLD, "nothing is left, and not everything was sold");
        let not_taken = change(&|_, accounts| {
            accounts[1].holdings.get_mut(&region("a")).unwrap().rights = 2;
        });
        assert_eq!(not_taken, STRANDED, "what lies above the ceiling was not taken over");
        let refused = change(&|history, _| drop(history.pop()));
        assert_eq!(refused, STRANDED, "shoppers got one unit only, whatever the books say");
        let nobody = change(&|_, accounts| accounts.clear());
        assert_eq!(nobody, BOTH, "nobody could be asked");
        let before = change(&|history, _| {
            history.push(wish("o3", vec![acknowledged("o3", 0)]));
            drop(history.remove(0));
        });
        assert_eq!(
            before, STRANDED,
            "it had sold all that it might, and one is left of two others"
        );
    }

    #[test]
    fn what_the_lost_region_had_given_away_is_sold_by_others() {
        let (history, mut accounts, stock) = good();
        for account in &mut accounts {
            let of_a = account.holdings.get_mut(&"a".parse().unwrap()).unwrap();
            (of_a.ceiling, of_a.given) = (2, 1);
        }
        let judged = others_sell_what_it_left_within_60_s(&lost(), &[WINDOW], &accounts, &stock);
        assert_eq!(judged.outcome, Outcome::Passed);
        assert_eq!(outcomes(&history, &accounts), GOOD);
    }
}
