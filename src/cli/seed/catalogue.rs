//! A plausible catalogue of any size, the same on every machine. Pure.
//!
//! Goods are kind × size × color × edition. The first is always `TSHIRT-M-BLUE`, which the README
//! orders. Prices are set in euro cents and follow in the other currencies, each ending as shops let
//! prices end.

use serde_json::json;

use super::load::ProductSpec;

/// A kind of goods.
struct Kind {
    code: &'static str,
    name: &'static str,
    category: &'static str,
    euro_cents: i64,
    weight_grams: u32,
    tax_class: &'static str,
    sizes: &'static [&'static str],
    text: &'static str,
}

const CLOTHES: &[&str] = &["M", "L", "S", "XL", "XS"];
const SHOES: &[&str] = &["42", "38", "40", "44", "36"];
const ONE_SIZE: &[&str] = &["ONE"];
const VOLUMES: &[&str] = &["300ML", "500ML", "1L"];
const BEDS: &[&str] = &["90X200", "140X200", "180X200"];

const fn kind(
    code: &'static str,
    name: &'static str,
    category: &'static str,
    euro_cents: i64,
    weight_grams: u32,
    sizes: &'static [&'static str],
    text: &'static str,
) -> Kind {
    Kind { code, name, category, euro_cents, weight_grams, tax_class: "standard", sizes, text }
}

const KINDS: &[Kind] = &[
    kind("TSHIRT", "T-shirt", "clothing", 1_999, 180, CLOTHES, "Combed cotton, cut straight."),
    kind("MUG", "Mug", "kitchen", 1_295, 350, VOLUMES, "Stoneware, safe in the dishwasher."),
    kind("HOODIE", "Hoodie", "clothing", 4_990, 620, CLOTHES, "Brushed fleece with a deep hood."),
    kind("LANTERN", "Lantern", "home", 2_450, 900, ONE_SIZE, "Powder-coated steel and glass."),
    kind("SNEAKER", "Sneaker", "shoes", 7_900, 840, SHOES, "Canvas on a vulcanized sole."),
    kind("BOTTLE", "Bottle", "outdoor", 2_790, 310, VOLUMES, "Steel, keeps cold for a day."),
    kind("TOTE", "Tote bag", "bags", 1_490, 140, ONE_SIZE, "Heavy canvas with long handles."),
    kind("BEDDING", "Bed linen", "home", 6_900, 1_400, BEDS, "Washed linen, duvet and pillow."),
    kind("BEANIE", "Beanie", "clothing", 1_990, 90, ONE_SIZE, "Merino wool, ribbed."),
    kind("NOTEBOOK", "Notebook", "paper", 890, 260, ONE_SIZE, "192 dotted pages, thread-bound."),
    kind("BACKPACK", "Backpack", "bags", 8_990, 980, ONE_SIZE, "Waxed cotton, 18 liters."),
    kind("SOCKS", "Socks", "clothing", 990, 70, SHOES, "Two pairs, cotton and elastane."),
    kind("TEAPOT", "Teapot", "kitchen", 3_450, 880, VOLUMES, "Cast iron with a steel strainer."),
    kind("CUSHION", "Cushion", "home", 2_490, 430, ONE_SIZE, "Wool cover, feather filling."),
    kind("RAINCOAT", "Raincoat", "clothing", 11_900, 700, CLOTHES, "Welded seams, packs small."),
    kind("CANDLE", "Candle", "home", 1_690, 420, ONE_SIZE, "Rapeseed wax, 40 hours."),
];

const COLORS: &[(&str, &str)] = &[
    ("BLUE", "blue"),
    ("RED", "red"),
    ("GREEN", "green"),
    ("BLACK", "black"),
    ("WHITE", "white"),
    ("GREY", "grey"),
    ("SAND", "sand"),
    ("PLUM", "plum"),
];

/// The first `count` goods.
pub(super) fn catalogue(count: usize) -> Vec<ProductSpec> {
    (0..count).map(product).collect()
}

fn product(index: usize) -> ProductSpec {
    let kind = &KINDS[index % KINDS.len()];
    let variant = index / KINDS.len();
    let size = kind.sizes[variant % kind.sizes.len()];
    let (color, color_name) = COLORS[variant / kind.sizes.len() % COLORS.len()];
    let edition = variant / kind.sizes.len() / COLORS.len();
    let mut parts = vec![kind.code.to_owned()];
    let mut name = kind.name.to_owned();
    if kind.sizes.len() > 1 {
        parts.push(size.to_owned());
        name.push(' ');
        name.push_str(&spoken(size));
    }
    parts.push(color.to_owned());
    name.push_str(", ");
    name.push_str(color_name);
    if edition > 0 {
        parts.push(format!("E{}", edition + 1));
        name.push_str(", edition ");
        name.push_str(&(edition + 1).to_string());
    }
    let sku = parts.join("-");
    // Larger sizes and later editions cost a little more, so that reports have something to sort.
    let step = (variant % kind.sizes.len()) * 50 + edition.min(20) * 100;
    let euro = kind.euro_cents + i64::try_from(step).expect("a few thousand at most");
    let body = json!({
        "sku": sku,
        "name": name,
        "description": kind.text,
        "category": kind.category,
        "tax_class": kind.tax_class,
        "weight_grams": kind.weight_grams,
        "prices": [
            {"amount": euro, "currency": "EUR"},
            {"amount": ending(euro * 108 / 100, 100, 99), "currency": "USD"},
            {"amount": ending(euro * 86 / 100, 100, 50), "currency": "GBP"},
            {"amount": ending(euro * 91, 10_000, 9_900), "currency": "INR"},
        ],
    });
    ProductSpec { sku, body }
}

/// A size as people write it: `300ML` is `300 ml`, `90X200` is `90 × 200`.
fn spoken(size: &str) -> String {
    if size.starts_with(|first: char| first.is_ascii_digit()) {
        size.replace("ML", " ml").replace('L', " l").replace('X', " × ")
    } else {
        size.to_owned()
    }
}

/// The price at or above `amount` that ends as shops like it.
fn ending(amount: i64, step: i64, end: i64) -> i64 {
    let candidate = amount / step * step + end;
    if candidate >= amount { candidate } else { candidate + step }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::Sku;

    #[test]
    fn the_readmes_shirt_comes_first_and_names_are_speakable() {
        let goods = catalogue(33);
        assert_eq!(goods[0].sku, "TSHIRT-M-BLUE");
        assert_eq!(goods[0].body["name"], "T-shirt M, blue");
        assert_eq!(goods[1].body["name"], "Mug 300 ml, blue");
        assert_eq!(goods[3].body["name"], "Lantern, blue");
        assert_eq!(goods[0].body["prices"][0]["amount"], 1_999);
        assert_eq!(goods[0].body["prices"][1]["amount"], 2_199);
        assert_eq!(goods[0].body["prices"][2]["amount"], 1_750);
        assert_eq!(goods[0].body["prices"][3]["amount"], 189_900);
    }

    #[test]
    fn a_large_catalogue_has_no_sku_twice_and_only_legal_ones() {
        let goods = catalogue(10_000);
        let skus: BTreeSet<&str> = goods.iter().map(|product| product.sku.as_str()).collect();
        assert_eq!(skus.len(), 10_000);
        for product in &goods {
            assert!(product.sku.parse::<Sku>().is_ok(), "{}", product.sku);
            let prices = product.body["prices"].as_array().unwrap();
            assert!(prices.iter().all(|price| price["amount"].as_i64().unwrap() > 0));
        }
        assert_eq!(catalogue(100), goods[..100]);
    }

    #[test]
    fn prices_end_as_shops_like_it_and_never_fall_below() {
        assert_eq!(ending(2_158, 100, 99), 2_199);
        assert_eq!(ending(2_199, 100, 99), 2_199);
        assert_eq!(ending(1_751, 100, 50), 1_850);
    }
}
