//! All checks of a run, in the order in which they must hold.

use std::sync::Mutex;

use super::books::Books;
use super::checks::{anytime, eventually, finally, lost, moved, sale};
use super::faults::Window;
use super::history::Wish;
use super::run::Stage;
use super::samples::Seen;
use super::stock;
use super::verdict::Finding;
use crate::cli::reconcile;
use crate::runtime::SystemClock;

/// What happened.
pub(super) struct Course {
    pub(super) history: Vec<Wish>,
    pub(super) windows: Vec<Window>,
    /// Since the load began.
    pub(super) clock: SystemClock,
    /// The wall time at that moment.
    pub(super) began_ms: u64,
}

impl Course {
    /// When the last fault was healed and the last shopper was told.
    fn healed_ms(&self) -> u64 {
        let tries = self.history.iter().filter_map(|wish| wish.tries.last());
        let told = tries.map(|last| last.ended_ms);
        let healed = self.windows.iter().filter_map(|window| window.to_ms);
        told.chain(healed).max().unwrap_or(0)
    }
}

/// Looks at everything.
pub(super) async fn judge(
    stage: &Stage,
    course: &Course,
    seen: &Mutex<Seen>,
) -> anyhow::Result<Vec<Finding>> {
    let Course { history, windows, clock, began_ms } = course;
    let (auditors, faults) = (&stage.auditors, &stage.scenario.faults);
    let healed_ms = course.healed_ms();
    let destroyed = stage.scenario.destroyed();
    let is_scarce = stage.scenario.is_scarce();
    // In this order: a saga that ends may show a duplicate, and an order that yields is replicated.
    let sagas = eventually::sagas_end_within_60_s(auditors, healed_ms, *clock).await;
    let run = &*stage.run;
    let yielded = eventually::duplicates_yield_within_30_s(auditors, run, healed_ms, *clock).await;
    let agree = eventually::regions_agree_within_30_s(auditors, *clock).await;
    let books = Books::read(auditors, &stage.provider, &stage.run).await?;
    let report = reconcile::report(&stage.target, false).await?;
    let mut findings = {
        let seen = seen.lock().expect("no panic while held");
        vec![
            anytime::one_order_per_key(history, windows),
            anytime::only_documented_answers(history),
            anytime::never_oversold(&seen),
            anytime::regions_not_hit_answer(history, faults, windows, is_scarce),
        ]
    };
    findings.extend([
        eventually::first_order_within_10_s(history, faults, windows, is_scarce),
        eventually::every_shopper_is_told(history),
        sagas,
        yielded,
        agree,
        finally::acknowledged_orders_are_there(history, &books, &destroyed),
        finally::one_standing_order_per_key(history, &books),
        finally::provider_agrees(history, &books),
        finally::units_are_conserved(history, &books, &stage.stock, &destroyed),
        finally::reconciles(&report),
        moved::rights_do_not_wander(&books, stage.scenario.evacuates()),
    ]);
    // Where there is more than is wanted, nothing sells out, and where nobody was lost, nothing is left behind.
    if is_scarce && stage.scenario.loses() {
        let accounts = &seen.lock().expect("no panic while held").accounts;
        let stock = &stage.stock;
        findings.extend([
            lost::others_sell_what_it_left_within_60_s(faults, windows, accounts, stock),
            lost::no_more_is_stranded_than_was_open(history, faults, windows, accounts, stock),
        ]);
    }
    if let Some(on_sale) = stage.scenario.sale {
        findings.push(sale::all_units_are_sold(history, &books, on_sale.units));
        findings.push(sale::none_refused_while_one_was_left(
            history,
            &books,
            on_sale.units,
            *began_ms,
        ));
        if let Some(region) = on_sale.region {
            let here = stock::share_of(on_sale, &stage.target.regions, region);
            let finding =
                sale::rights_come_within_1_s(history, &books, on_sale.units, here, *began_ms);
            findings.push(finding);
        }
    }
    Ok(findings)
}
