//! What is true at rest, going by what shoppers were told and by everybody's books. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cli::chaos::books::{Books, standing};
use crate::cli::chaos::history::{Told, Wish};
use crate::cli::chaos::shoppers::PRICE;
use crate::cli::chaos::verdict::Finding;
use crate::types::RegionId;

/// I-06: what was acknowledged is there, in every region, and stands. Of a region that was destroyed, what was
/// confirmed with `durability: remote`.
pub(in crate::cli::chaos) fn acknowledged_orders_are_there(
    history: &[Wish],
    books: &Books,
    destroyed: &BTreeSet<RegionId>,
) -> Finding {
    let mut lost = Vec::new();
    let mut count = 0;
    let statuses = books.statuses();
    let known: BTreeMap<_, BTreeSet<(&str, &str)>> = books
        .orders
        .iter()
        .map(|(region, intents)| {
            let there = intents.iter().filter(|intent| intent.order.is_some());
            (region, there.map(|intent| (&*intent.key, &*intent.order_id)).collect())
        })
        .collect();
    for wish in history {
        let Some(told) = wish.acknowledged() else { continue };
        let is_lost = !told.confirmed && told.by.is_some_and(|by| destroyed.contains(&by));
        if is_lost {
            continue;
        }
        count += 1;
        let (key, order) = (&wish.key, told.order_id);
        for (region, known) in &known {
            for missing in wish.orders().into_iter().filter(|order| !known.contains(&(key, order)))
            {
                lost.push(format!("order {missing} (key {key}) is not in {region}"));
            }
        }
        // An order under way may still end cancelled: its payment may be declined.
        let stands = statuses.get(key.as_str()).map(standing).unwrap_or_default();
        if told.confirmed && stands.is_empty() {
            lost.push(format!("order {order} (key {key}) was confirmed, and nothing stands"));
        }
    }
    let detail = format!("{count} orders in {} regions", known.len());
    Finding::of("finally_acknowledged_orders_are_there", detail, lost)
}

/// I-07: one key has one standing order, and none where a refusal was told.
pub(in crate::cli::chaos) fn one_standing_order_per_key(
    history: &[Wish],
    books: &Books,
) -> Finding {
    let statuses = books.statuses();
    let mut broken = Vec::new();
    for (key, orders) in &statuses {
        let stands = standing(orders);
        if stands.len() > 1 {
            broken.push(format!("key {key}: {} stand", stands.join(" and ")));
        }
    }
    for wish in history {
        let refused = wish.outcome().is_some_and(|last| matches!(last.told, Told::Refused { .. }));
        let stands = statuses.get(wish.key.as_str()).map(standing).unwrap_or_default();
        if refused && !stands.is_empty() {
            broken.push(format!("key {}: refused, and {} stands", wish.key, stands[0]));
        }
    }
    let twice = statuses.values().filter(|orders| orders.len() > 1).count();
    let detail = format!("{} keys, {twice} of them were taken by two regions", statuses.len());
    Finding::of("finally_one_standing_order_per_key", detail, broken)
}

/// I-10 and I-12: the provider holds the price of each standing order once, and nothing else.
pub(in crate::cli::chaos) fn provider_agrees(history: &[Wish], books: &Books) -> Finding {
    let statuses = books.statuses();
    let key_of: BTreeMap<&str, &str> = statuses
        .iter()
        .flat_map(|(key, orders)| orders.keys().map(move |order| (*order, *key)))
        .collect();
    let mut to_be_held: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
    let mut broken = Vec::new();
    for payment in &books.payments {
        let order = payment.order_id.as_str();
        let stands = key_of.get(order).is_some_and(|key| standing(&statuses[key]).contains(&order));
        if stands {
            if payment.state != "authorized" {
                broken.push(format!("order {order} stands and its payment is {}", payment.state));
            }
            let entry = (payment.amount_minor, order);
            if let Some((_, other)) = to_be_held.insert(&payment.provider_key, entry) {
                broken.push(format!("orders {order} and {other} stand on one payment"));
            }
        }
    }
    let mut held: BTreeMap<&str, i64> = BTreeMap::new();
    for hold in &books.held {
        let ours = hold.order.as_deref().is_some_and(|order| key_of.contains_key(order));
        if !ours && !to_be_held.contains_key(hold.provider_key.as_str()) {
            continue;
        }
        *held.entry(&hold.provider_key).or_default() += hold.amount_minor;
        if !to_be_held.contains_key(hold.provider_key.as_str()) {
            let order = hold.order.as_deref().unwrap_or("none");
            broken.push(format!(
                "{} is held for order {order}, which does not stand",
                hold.amount_minor
            ));
        }
    }
    for (provider_key, (amount, order)) in &to_be_held {
        let held = held.get(provider_key).copied().unwrap_or(0);
        if held != *amount {
            broken.push(format!("order {order}: {held} is held, and its price is {amount}"));
        }
    }
    let mut paid_for: BTreeMap<&str, i64> = BTreeMap::new();
    for (amount, order) in to_be_held.values() {
        *paid_for.entry(order).or_default() += amount;
    }
    for wish in history {
        let stands = statuses.get(wish.key.as_str()).map(standing).unwrap_or_default();
        let price = wish.units().saturating_mul(PRICE);
        let paid: i64 = stands.iter().filter_map(|order| paid_for.get(order)).sum();
        if !stands.is_empty() && paid != price {
            broken.push(format!("key {}: {paid} is to be paid for goods of {price}", wish.key));
        }
    }
    let detail = format!("{} holds of {} standing orders", held.len(), to_be_held.len());
    Finding::of("finally_provider_agrees", detail, broken)
}

/// I-01 to I-05: every unit is sold or can be sold, once, by every region's account.
pub(in crate::cli::chaos) fn units_are_conserved(
    history: &[Wish],
    books: &Books,
    stock: &BTreeMap<String, i64>,
    destroyed: &BTreeSet<RegionId>,
) -> Finding {
    let mut broken = Vec::new();
    for (region, rows) in &books.rights {
        let mut received: BTreeMap<&str, i64> = BTreeMap::new();
        let mut accounted: BTreeMap<&str, i64> = BTreeMap::new();
        let mut own: BTreeMap<&str, i64> = BTreeMap::new();
        for row in rows {
            *received.entry(&row.sku).or_default() += row.received;
            *accounted.entry(&row.sku).or_default() += row.rights + row.promised + row.withdrawn;
            if row.region == region.as_str() {
                *own.entry(&row.sku).or_default() += row.promised;
            }
            if row.rights < 0 {
                broken.push(format!(
                    "{} of {}: {} rights, by {region}",
                    row.sku, row.region, row.rights
                ));
            }
        }
        for (sku, units) in stock {
            let (received, accounted) = (received.get(&**sku), accounted.get(&**sku));
            if (received, accounted) != (Some(units), Some(units)) {
                broken.push(format!(
                    "{sku} by {region}: {units} units are there, {received:?} received, {accounted:?} accounted for"
                ));
            }
            let reserved = books.reserved.get(region).and_then(|of| of.get(sku)).unwrap_or(&0);
            let spent = own.get(&**sku).unwrap_or(&0);
            // What an incarnation had spent that is lost counts as sold, whatever its orders say.
            if reserved != spent && !destroyed.contains(region) {
                broken.push(format!("{sku} in {region}: {spent} spent, orders hold {reserved}"));
            }
        }
    }
    let statuses = books.statuses();
    let mut sold: BTreeMap<&str, i64> = BTreeMap::new();
    for wish in history {
        if statuses.get(wish.key.as_str()).is_some_and(|orders| !standing(orders).is_empty()) {
            for line in &wish.lines {
                let units = i64::try_from(line.quantity).unwrap_or(i64::MAX);
                *sold.entry(&line.sku).or_default() += units;
            }
        }
    }
    for (sku, units) in stock {
        let reserved: i64 = books.reserved.values().filter_map(|of| of.get(sku)).sum();
        let sold = sold.get(&**sku).copied().unwrap_or(0);
        if reserved != sold || sold > *units {
            broken
                .push(format!("{sku}: {sold} of {units} sold to shoppers, orders hold {reserved}"));
        }
    }
    let sold: i64 = sold.values().sum();
    let detail = format!("{sold} of {} units sold", stock.values().sum::<i64>());
    Finding::of("finally_units_are_conserved", detail, broken)
}

/// `entrepot reconcile` finds nothing, in all regions and at the provider.
pub(in crate::cli::chaos) fn reconciles(report: &Value) -> Finding {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let list = |name: &str| report[name].as_array().into_iter().flatten();
    let mut broken: Vec<_> = list("differences")
        .map(|one| {
            let part = |name: &str| text(&one[name]);
            format!(
                "{} ({}) in {}: {}; expected {}, found {}",
                part("class"),
                part("invariant"),
                part("region"),
                part("subject"),
                part("expected"),
                part("found")
            )
        })
        .collect();
    broken.extend(
        list("not_compared")
            .map(|one| format!("not compared: {} ({})", text(&one["what"]), text(&one["why"]))),
    );
    if report["status"] != "finished" {
        broken.push(format!("the run did not end well: {}", text(&report["error"])));
    }
    let checked = |what: &str| text(&report["checked"][what]);
    let detail = format!(
        "{} orders, {} keys of rights, {} payments, {} copies compared",
        checked("orders"),
        checked("keys"),
        checked("payments"),
        checked("copies")
    );
    Finding::of("finally_reconciles", detail, broken)
}

#[cfg(test)]
mod tests;
