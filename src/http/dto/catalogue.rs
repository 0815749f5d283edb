//! Products in requests and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::catalogue::Product;
use crate::domain::order::place::ORDER_TOTAL_MINOR_MAX;
use crate::types::{Currency, HlcTimestamp, RegionId, Sku};

use super::super::problem::Problem;
use super::{Faults, MoneyIn, MoneyOut, parse_rfc3339};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 300;
/// The longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 10_000;
/// One kilogram short of ten tons: no parcel is heavier.
const WEIGHT_GRAMS_MAX: i64 = 9_999_000;
/// Prices of one product: more than the shop has currencies.
const PRICES_MAX: usize = 50;

/// A new product.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ProductBody {
    /// The sellable unit.
    #[schema(example = "85123A")]
    sku: String,
    /// What people call it.
    name: String,
    /// A longer text.
    #[serde(default)]
    description: Option<String>,
    /// One a currency.
    prices: Vec<MoneyIn>,
    /// Names the tax rule.
    #[serde(default)]
    #[schema(example = "standard")]
    tax_class: Option<String>,
    /// For shipping.
    #[serde(default)]
    weight_grams: Option<i64>,
    /// A category of the shop's own.
    #[serde(default)]
    category: Option<String>,
    /// RFC 3339; before it the product is only pre-ordered.
    #[serde(default)]
    preorder_release_at: Option<String>,
}

/// Changes of a product; what is absent stays.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ProductPatch {
    /// What people call it.
    #[serde(default)]
    name: Option<String>,
    /// A longer text.
    #[serde(default)]
    description: Option<String>,
    /// All of them anew, one a currency.
    #[serde(default)]
    prices: Option<Vec<MoneyIn>>,
    /// Names the tax rule.
    #[serde(default)]
    tax_class: Option<String>,
    /// For shipping.
    #[serde(default)]
    weight_grams: Option<i64>,
    /// A category of the shop's own.
    #[serde(default)]
    category: Option<String>,
    /// RFC 3339; an empty text takes it away.
    #[serde(default)]
    preorder_release_at: Option<String>,
}

/// A product.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Product)]
pub(in crate::http) struct ProductOut {
    /// The sellable unit.
    #[schema(value_type = String)]
    sku: Sku,
    /// What people call it.
    name: String,
    /// A longer text.
    description: String,
    /// One a currency.
    prices: Vec<MoneyOut>,
    /// Names the tax rule.
    tax_class: String,
    /// For shipping.
    weight_grams: u32,
    /// A category of the shop's own.
    category: String,
    /// Before it the product is only pre-ordered.
    preorder_release_at: Option<String>,
}

impl ProductBody {
    /// The checked product. Its stamp is set when it is written.
    pub(in crate::http) fn check(&self, region: RegionId) -> Result<Product, Problem> {
        let mut faults = Faults::default();
        let sku = faults.parse("sku", &self.sku);
        let blank = Product {
            sku: sku.unwrap_or_else(|| "x".parse().expect("a legal SKU")),
            name: String::new(),
            description: String::new(),
            category: String::new(),
            tax_class: "standard".to_owned(),
            weight_grams: 0,
            prices: BTreeMap::new(),
            preorder_release_at: None,
            hlc: HlcTimestamp::origin(region),
        };
        let patch = ProductPatch {
            name: Some(self.name.clone()),
            description: self.description.clone(),
            prices: Some(self.prices.clone()),
            tax_class: self.tax_class.clone(),
            weight_grams: self.weight_grams,
            category: self.category.clone(),
            preorder_release_at: self.preorder_release_at.clone(),
        };
        let product = patch.over(blank, &mut faults);
        faults.finish(Some(product))
    }

    /// Identifies the request for its idempotency key.
    pub(in crate::http) fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values")
    }
}

impl ProductPatch {
    /// The product with the changes made.
    pub(in crate::http) fn apply(&self, product: Product) -> Result<Product, Problem> {
        let mut faults = Faults::default();
        let product = self.over(product, &mut faults);
        faults.finish(Some(product))
    }

    fn over(&self, mut product: Product, faults: &mut Faults) -> Product {
        if let Some(name) = &self.name {
            product.name = faults.text("name", name, NAME_BYTES_MAX);
        }
        if let Some(description) = &self.description {
            if description.len() > DESCRIPTION_BYTES_MAX {
                faults.add("description", format!("must be at most {DESCRIPTION_BYTES_MAX} bytes"));
            }
            product.description.clone_from(description);
        }
        if let Some(prices) = &self.prices {
            product.prices = check_prices(prices, faults);
        }
        if let Some(tax_class) = &self.tax_class {
            product.tax_class = faults.text("tax_class", tax_class, 64);
        }
        if let Some(weight) = self.weight_grams {
            let weight = faults.within("weight_grams", weight, 0..=WEIGHT_GRAMS_MAX);
            product.weight_grams = weight.unwrap_or(0);
        }
        if let Some(category) = &self.category {
            product.category = faults
                .optional_text("category", Some(category), NAME_BYTES_MAX)
                .unwrap_or_default();
        }
        if let Some(at) = &self.preorder_release_at {
            if !at.is_empty() && parse_rfc3339(at).is_none() {
                faults.add(
                    "preorder_release_at",
                    "must be a time of RFC 3339, e.g. 2026-12-01T00:00:00Z",
                );
            }
            product.preorder_release_at = Some(at.clone()).filter(|at| !at.is_empty());
        }
        product
    }
}

fn check_prices(prices: &[MoneyIn], faults: &mut Faults) -> BTreeMap<Currency, i64> {
    let mut checked = BTreeMap::new();
    if prices.len() > PRICES_MAX {
        faults.add("prices", format!("must have at most {PRICES_MAX} entries"));
        return checked;
    }
    for (index, price) in prices.iter().enumerate() {
        let bounds = 0..=ORDER_TOTAL_MINOR_MAX;
        let amount = faults.within(format!("prices[{index}].amount"), price.amount, bounds);
        let field = format!("prices[{index}].currency");
        let currency = faults.parse::<Currency>(field.as_str(), &price.currency);
        if let (Some(amount), Some(currency)) = (amount, currency)
            && checked.insert(currency, amount).is_some()
        {
            faults.add(field, "has two prices in this currency");
        }
    }
    checked
}

impl From<Product> for ProductOut {
    fn from(product: Product) -> Self {
        let money = |(currency, amount)| MoneyOut { amount, currency };
        Self {
            sku: product.sku,
            name: product.name,
            description: product.description,
            prices: product.prices.into_iter().map(money).collect(),
            tax_class: product.tax_class,
            weight_grams: product.weight_grams,
            category: product.category,
            preorder_release_at: product.preorder_release_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[expect(clippy::unwrap_in_result, reason = "what the test itself brings is sound")]
    fn check(body: serde_json::Value) -> Result<Product, Vec<String>> {
        let body: ProductBody = serde_json::from_value(body).unwrap();
        let fields = |problem: Problem| problem.errors.into_iter().map(|e| e.field).collect();
        body.check("eu-west".parse().unwrap()).map_err(fields)
    }

    #[test]
    fn products_are_checked() {
        let good =
            json!({"sku": "A-1", "name": "A", "prices": [{"amount": 255, "currency": "GBP"}]});
        let product = check(good.clone()).unwrap();
        assert_eq!(product.prices[&"GBP".parse().unwrap()], 255);
        assert_eq!(product.tax_class, "standard");
        for (member, bad, field) in [
            ("sku", json!(""), "sku"),
            ("name", json!(""), "name"),
            ("prices", json!([{"amount": -1, "currency": "GBP"}]), "prices[0].amount"),
            ("prices", json!([{"amount": 1, "currency": "gbp"}]), "prices[0].currency"),
            (
                "prices",
                json!([{"amount": 1, "currency": "GBP"}, {"amount": 2, "currency": "GBP"}]),
                "prices[1].currency",
            ),
            ("weight_grams", json!(-1), "weight_grams"),
            ("preorder_release_at", json!("soon"), "preorder_release_at"),
        ] {
            let mut body = good.clone();
            body[member] = bad;
            assert_eq!(check(body), Err(vec![field.to_owned()]));
        }
        let patch: ProductPatch = serde_json::from_value(json!({"name": "B"})).unwrap();
        let patched = patch.apply(product.clone()).unwrap();
        assert_eq!(patched, Product { name: "B".to_owned(), ..product });
    }
}
