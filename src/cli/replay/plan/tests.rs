//! The rules one by one, the account under random files, and the real year when it is at hand.

use proptest::prelude::*;

use super::*;
use crate::cli::replay::parse::parse;
use crate::cli::replay::read::text_of;

const HEADER: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

fn homes() -> Homes {
    crate::cli::replay::homes::testing::three_regions()
}

/// One row a line: `invoice code quantity price customer country`.
fn planned(rows: &[&str]) -> (History, Plan) {
    let mut text = HEADER.to_owned();
    for row in rows {
        let fields: Vec<&str> = row.splitn(6, ' ').collect();
        let [invoice, code, quantity, price, customer, country] = fields[..] else {
            panic!("six fields: {row}");
        };
        let customer = customer.trim_start_matches('-');
        text.push_str(
            &[invoice, code, "x", quantity, "2010-12-01 08:26:00", price, customer, country]
                .join(","),
        );
        text.push('\n');
    }
    let history = parse(text.as_bytes()).unwrap();
    let plan = plan(&history, &homes());
    assert!(plan.account.adds_up(), "{:?}", plan.account);
    (history, plan)
}

fn skipped(plan: &Plan) -> Vec<(&'static str, u64)> {
    plan.account.skipped.iter().map(|(reason, tally)| (reason.code(), tally.lines)).collect()
}

#[test]
fn each_rule_skips_its_lines_and_only_them() {
    let (_, plan) = planned(&[
        "1 85123A 6 2.55 17850 United Kingdom",
        "1 POST 1 18.00 17850 United Kingdom",
        "1 gift_0001_20 1 17.02 17850 United Kingdom",
        "1 m 1 2.55 17850 United Kingdom",
        "1 TEST001 1 4.50 17850 United Kingdom",
        "1 85123A -1 0 17850 United Kingdom",
        "1 85123A 0 2.55 17850 United Kingdom",
        "1 85123A 1000001 2.55 17850 United Kingdom",
        "1 85123A 1 -2.55 17850 United Kingdom",
        "1 85123A 1 0.001 17850 United Kingdom",
        "1 DCGSSBOY 2 0 17850 United Kingdom",
        "2 85123A 5 0 - United Kingdom",
        "3 85123A 5 0 17850 United Kingdom",
        "A4 B 1 -11062.06 - United Kingdom",
        "5 POST 1 1 - France",
        "5 85123A -1 0 - France",
    ]);
    let expected = [
        ("service_code", 5),
        ("write_off", 2),
        ("zero_quantity", 1),
        ("quantity_too_large", 1),
        ("negative_price", 1),
        ("sub_penny_price", 1),
        ("zero_price", 2),
        ("bad_debt_adjustment", 1),
    ];
    assert_eq!(skipped(&plan), expected);
    // The gift is kept: its customer pays for something else in the same order.
    assert_eq!(plan.jobs.len(), 1);
    assert_eq!(plan.jobs[0].orders[0].lines.len(), 2);
    assert_eq!(plan.jobs[0].orders[0].total_minor, 1_530);
    let invoices: Vec<_> =
        plan.account.invoices_skipped.iter().map(|(reason, n)| (reason.code(), *n)).collect();
    let expected = [("zero_price", 2), ("bad_debt_adjustment", 1), ("several_reasons", 1)];
    assert_eq!(invoices, expected);
    assert_eq!(plan.account.service_codes["gift_0001_20"], 1);
}

#[test]
fn a_long_invoice_becomes_several_orders_and_a_large_line_several_lines() {
    let rows: Vec<String> =
        (0..401).map(|n| format!("536544 {} 1 1.00 - United Kingdom", 10_000 + n)).collect();
    let (_, plan) = planned(&rows.iter().map(String::as_str).collect::<Vec<_>>());
    let orders = &plan.jobs[0].orders;
    let references: Vec<&str> = orders.iter().map(|order| order.reference.as_str()).collect();
    assert_eq!(references, ["536544", "536544/2", "536544/3"]);
    assert_eq!(orders.iter().map(|order| order.lines.len()).collect::<Vec<_>>(), [200, 200, 1]);

    let (_, plan) = planned(&["541431 23166 74215 1.04 12346 United Kingdom"]);
    let order = &plan.jobs[0].orders[0];
    assert_eq!(order.lines.len(), 8);
    assert_eq!(order.lines.iter().map(|line| line.quantity).sum::<u32>(), 74_215);
    assert_eq!(order.total_minor, 7_718_360);
}

#[test]
fn cancellations_are_counted_and_matched() {
    let (_, plan) = planned(&[
        "1 85123A 6 2.55 17850 United Kingdom",
        "C2 85123A -2 2.55 17850 United Kingdom",
        "C3 D -1 27.50 17850 United Kingdom",
        "C4 85123A -9 2.55 17850 United Kingdom",
    ]);
    assert_eq!((plan.account.cancellations, plan.account.cancelled.lines), (3, 3));
    assert_eq!(plan.account.cancelled.minor, -510 - 2_750 - 2_295);
    let expected = Matches {
        matched_lines: 1,
        partly_matched_lines: 1,
        unmatched_lines: 0,
        service_lines: 1,
        matched_units: 6,
        unmatched_units: 5,
    };
    assert_eq!(plan.matches, expected);
}

#[test]
fn demand_and_catalogue_prices_come_from_the_orders() {
    let (history, plan) = planned(&[
        "1 85123A 6 2.55 12583 France",
        "2 85123A 4 2.55 12583 France",
        "3 85123A 7 2.95 12583 Japan",
        "4 71053 1 0 12583 Japan",
    ]);
    let sku = history.skus.iter().position(|code| code.sku.as_str() == "85123A").unwrap();
    let sku = u32::try_from(sku).unwrap();
    assert_eq!(plan.demand[0][&sku], 7);
    assert_eq!(plan.demand[1][&sku], 10);
    assert_eq!(plan.prices, BTreeMap::from([(sku, 255)]));
}

proptest! {
    #[test]
    fn every_invoice_line_and_penny_is_accounted_for(
        rows in prop::collection::vec((
            "[CAX]?[1-9]",
            prop::sample::select(vec!["85123A", "71053", "POST", "M", "TEST1", ""]),
            -30_000i32..30_000,
            -2_000i64..2_000_000,
            prop::sample::select(vec!["", "17850.0", "12583"]),
            prop::sample::select(vec!["France", "United Kingdom", "Japan", ""]),
        ), 1..60),
        broken in prop::collection::vec(0usize..60, 0..5),
    ) {
        let mut text = HEADER.to_owned();
        let mut parts = 0i128;
        let mut readable = 0;
        for (index, (invoice, code, quantity, price, customer, country)) in rows.iter().enumerate() {
            let sign = if *price < 0 { "-" } else { "" };
            let price_text = format!("{sign}{}.{:04}", price.abs() / 10_000, price.abs() % 10_000);
            let date = if broken.contains(&index) { "soon" } else { "2010-12-01 08:26:00" };
            let units = quantity.to_string();
            text.push_str(&[invoice, *code, "x", &units, date, &price_text, customer, country].join(","));
            text.push('\n');
            if !code.is_empty() && !broken.contains(&index) {
                readable += 1;
                parts += i128::from(*quantity) * i128::from(*price);
            }
        }
        prop_assume!(readable > 0);
        let history = parse(text.as_bytes()).unwrap();
        let plan = plan(&history, &homes());
        let account = &plan.account;
        prop_assert!(account.adds_up());
        prop_assert_eq!(account.lines, rows.len() as u64);
        prop_assert_eq!(account.total_minor() * 100 + account.rest_parts, parts);
        let ordered: i128 = plan.jobs.iter().flat_map(|job| &job.orders)
            .map(|order| i128::from(order.total_minor)).sum();
        prop_assert_eq!(ordered, account.ordered.minor);
        for order in plan.jobs.iter().flat_map(|job| &job.orders) {
            prop_assert!(order.total_minor > 0);
            prop_assert!((1..=ORDER_LINES_MAX).contains(&order.lines.len()));
            prop_assert!(order.lines.iter().all(|line| (1..=LINE_UNITS_MAX).contains(&line.quantity)));
        }
        let demand: u64 = plan.demand.iter().flat_map(BTreeMap::values).sum();
        let units: u64 = plan.jobs.iter().flat_map(|job| &job.orders).flat_map(|order| &order.lines)
            .map(|line| u64::from(line.quantity)).sum();
        prop_assert_eq!(demand, units);
    }
}

/// The figures were computed by an independent program. The file lies beside the checkout, where
/// there is one.
#[test]
fn the_real_year_adds_up() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/data/online_retail_2010-12_2011-12.csv.zst"
    );
    if !std::path::Path::new(path).exists() {
        return;
    }
    let history = parse(&text_of(path.as_ref()).unwrap()).unwrap();
    let plan = plan(&history, &homes());
    let account = &plan.account;
    assert!(account.adds_up());
    assert_eq!((account.invoices, account.lines), (25_900, 541_909));
    assert_eq!(account.cancellations, 3_836);
    assert_eq!((account.total_minor(), account.rest_parts), (974_774_793, 40));
    assert_eq!((account.invoices_ordered, account.ordered.lines), (19_773, 527_786));
    assert_eq!(account.ordered.minor, 1_027_143_306);
    let orders: usize = plan.jobs.iter().map(|job| job.orders.len()).sum();
    assert_eq!((orders, plan.prices.len()), (20_112, 3_908));
}
