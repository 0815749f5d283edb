//! Made-up histories.

use crate::cli::chaos::history::{Line, Told, Try, Wish};
use crate::store::{Intent, IntentOrder};

/// A shopper of region `a`.
pub(super) fn wish(key: &str, tries: Vec<Try>) -> Wish {
    Wish {
        key: key.to_owned(),
        home: "a".parse().unwrap(),
        lines: vec![Line { sku: "s".to_owned(), quantity: 1 }],
        card: "tok_ok".to_owned(),
        on_sale: false,
        tries,
    }
}

/// Region `a` took the order, ten milliseconds after it was asked.
pub(super) fn acknowledged(order: &str, sent_ms: u64) -> Try {
    let by = Some("a".parse().unwrap());
    told(sent_ms, Told::Acknowledged { order_id: order.to_owned(), confirmed: true, by })
}

/// Region `a` did not.
pub(super) fn refused(status: u16, code: &str, sent_ms: u64) -> Try {
    let by = Some("a".parse().unwrap());
    told(sent_ms, Told::Refused { status, code: code.to_owned(), by })
}

fn told(sent_ms: u64, told: Told) -> Try {
    Try { via: "a".parse().unwrap(), sent_ms, ended_ms: sent_ms + 10, told }
}

/// An order as a region knows it.
pub(super) fn order(key: &str, order_id: &str, status: &str, created_ms: u64) -> Intent {
    let created_hlc = format!("{created_ms:016}-00000000-a");
    let (status, home_region) = (status.to_owned(), "a".to_owned());
    let order = Some(IntentOrder { status, home_region, created_hlc });
    Intent { key: key.to_owned(), order_id: order_id.to_owned(), order }
}
