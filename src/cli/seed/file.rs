//! A catalogue from a file: CSV with a header, a product a row.
//!
//! `sku,name,price_eur` are enough; `description`, `category`, `tax_class`, `weight_grams`, `stock`
//! and a `price_<currency>` for each further currency may be there as well. The first mistake refuses the
//! whole file with line and column, before anything is created.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};
use csv::StringRecord;
use serde_json::{Value, json};

use super::load::ProductSpec;
use crate::types::{Currency, Sku};

/// Columns other than prices.
const COLUMNS: &[&str] =
    &["sku", "name", "description", "category", "tax_class", "weight_grams", "stock"];

/// Rows of a file: what a catalogue may have.
const PRODUCTS_MAX: usize = 10_000_000;

/// A product and, where the file says so, how many units of it there are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) product: ProductSpec,
    pub(super) stock: Option<u64>,
}

/// Reads a catalogue.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Row>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}: name an existing CSV file", path.display()))?;
    parse(&text).with_context(|| format!("{} was not loaded", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut reader = csv::Reader::from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let header = reader.headers().context("line 1 (the header)")?.clone();
    let header: Vec<String> = header.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    check_header(&header)?;
    let (mut rows, mut skus) = (Vec::new(), BTreeSet::new());
    for record in reader.records() {
        let record = record.context("the file is not CSV")?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = row(&header, &record).with_context(|| format!("line {line}"))?;
        if !skus.insert(row.product.sku.clone()) {
            bail!("line {line}: sku `{}` stands there a second time", row.product.sku);
        }
        rows.push(row);
        if rows.len() > PRODUCTS_MAX {
            bail!("more than {PRODUCTS_MAX} products: split the file");
        }
    }
    if rows.is_empty() {
        bail!("there is no product in it: below the header, each line is one");
    }
    Ok(rows)
}

fn check_header(header: &[String]) -> anyhow::Result<()> {
    for (index, name) in header.iter().enumerate() {
        let known = COLUMNS.contains(&name.as_str()) || currency_of(name).is_some();
        if !known {
            bail!(
                "line 1: unknown column `{name}`; known are {} and price_<currency>, e.g. price_eur",
                COLUMNS.join(", ")
            );
        }
        if header[..index].contains(name) {
            bail!("line 1: column `{name}` stands there twice");
        }
    }
    for needed in ["sku", "name"] {
        if !header.iter().any(|name| name == needed) {
            bail!("line 1: column `{needed}` is missing");
        }
    }
    if !header.iter().any(|name| currency_of(name).is_some()) {
        bail!("line 1: there is no price column, e.g. price_eur");
    }
    Ok(())
}

fn currency_of(column: &str) -> Option<Currency> {
    column.strip_prefix("price_")?.to_ascii_uppercase().parse().ok()
}

fn row(header: &[String], record: &StringRecord) -> anyhow::Result<Row> {
    let field = |column: &str| {
        let index = header.iter().position(|name| name == column)?;
        record.get(index).map(str::trim).filter(|text| !text.is_empty())
    };
    let whole = |column: &str| {
        let parsed = field(column).map(str::parse::<u64>).transpose();
        parsed.with_context(|| format!("{column} must be a whole number, not negative"))
    };
    let sku: Sku = field("sku").unwrap_or_default().parse().context("sku")?;
    let name = field("name").context("name must not be empty")?;
    let mut prices: Vec<Value> = Vec::new();
    for column in header {
        let (Some(currency), Some(text)) = (currency_of(column), field(column)) else { continue };
        let amount = minor_units(text).with_context(|| {
            format!("{column}: `{text}` is no price (digits, a dot, at most two decimals)")
        })?;
        prices.push(json!({"amount": amount, "currency": currency}));
    }
    if prices.is_empty() {
        bail!("the product has no price");
    }
    let body = json!({
        "sku": sku,
        "name": name,
        "description": field("description").unwrap_or_default(),
        "category": field("category").unwrap_or_default(),
        "tax_class": field("tax_class").unwrap_or("standard"),
        "weight_grams": whole("weight_grams")?.unwrap_or(0),
        "prices": prices,
    });
    let product = ProductSpec { sku: sku.to_string(), body };
    Ok(Row { product, stock: whole("stock")? })
}

/// `19.99` is 1999. Currencies without decimals are written with `.00` all the same.
fn minor_units(text: &str) -> Option<i64> {
    let (whole, cents) = text.split_once('.').unwrap_or((text, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || cents.len() > 2 || !plain(whole) || !plain(cents) {
        return None;
    }
    format!("{whole}{cents:0<2}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let rows = parse(
            "SKU,name,price_eur,price_usd,weight_grams,stock\n\
             LAMP-1,\"Lamp, red\",19.99,,1200,40\nLAMP-2,Lamp,5,5.5,,\n",
        )
        .unwrap();
        assert_eq!(rows[0].stock, Some(40));
        assert_eq!(rows[0].product.body["prices"], json!([{"amount": 1999, "currency": "EUR"}]));
        assert_eq!(rows[1].product.body["prices"][1]["amount"], 550);
        assert_eq!(rows[1].stock, None);
    }

    #[test]
    fn a_mistake_is_told_with_line_and_column() {
        let told = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(told("sku,name\nA,a\n").contains("no price column"));
        assert!(told("sku,name,colour,price_eur\n").contains("unknown column `colour`"));
        assert!(told("sku,name,price_eur\n").contains("no product"));
        assert!(told("sku,name,price_eur\nA,a,1.999\n").contains("line 2: price_eur: `1.999`"));
        assert!(told("sku,name,price_eur\nA,a,1\nA,b,2\n").contains("line 3: sku `A`"));
        assert!(told("sku,name,price_eur\n ,a,1\n").contains("line 2: sku"));
        assert!(told("sku,name,price_eur,stock\nA,a,1,-4\n").contains("line 2: stock must be"));
    }
}
