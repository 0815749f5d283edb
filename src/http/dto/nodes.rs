//! Fulfillment nodes in requests and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::domain::catalogue::{Node, NodeKind};
use crate::types::{HlcTimestamp, NodeId, RegionId};

use super::super::problem::Problem;
use super::Faults;

/// Carriers of one node.
const CARRIERS_MAX: usize = 50;
/// Entries of a cost table: carriers times countries.
const COSTS_MAX: usize = 2_000;
/// Above any warehouse's shipments a day.
const CAPACITY_MAX: i64 = 10_000_000;

/// A new node.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NodeBody {
    /// Its name in stock keys and allocations.
    #[schema(example = "warehouse-leipzig")]
    id: String,
    /// What people call it.
    #[serde(default)]
    name: Option<String>,
    /// `warehouse`, `store`, `third_party` or `dropship`.
    #[schema(value_type = String, example = "warehouse")]
    kind: NodeKind,
    /// The region that owns it; this one if absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    region: Option<RegionId>,
    /// ISO 3166 alpha-2.
    #[schema(example = "DE")]
    country: String,
    /// Degrees, north positive; at most six decimals count.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = -90, maximum = 90, example = 51.34)]
    latitude: Option<Number>,
    /// Degrees, east positive; at most six decimals count.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = -180, maximum = 180, example = 12.375)]
    longitude: Option<Number>,
    /// Shipments it can send a day.
    #[serde(default)]
    capacity_per_day: Option<i64>,
    /// Shipments that wait there.
    #[serde(default)]
    backlog: Option<i64>,
    /// Who collects there.
    #[serde(default)]
    carriers: Vec<String>,
    /// Shipping cost in minor units by `<carrier>/<country>`.
    #[serde(default)]
    costs: BTreeMap<String, i64>,
    /// Takes part in allocation.
    #[serde(default = "yes")]
    active: bool,
}

fn yes() -> bool {
    true
}

/// Changes of a node; what is absent stays. Id and owner can't change: they are in every right.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NodePatch {
    /// What people call it.
    #[serde(default)]
    name: Option<String>,
    /// `warehouse`, `store`, `third_party` or `dropship`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    kind: Option<NodeKind>,
    /// ISO 3166 alpha-2.
    #[serde(default)]
    country: Option<String>,
    /// Degrees, north positive.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    latitude: Option<Number>,
    /// Degrees, east positive.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    longitude: Option<Number>,
    /// Shipments it can send a day.
    #[serde(default)]
    capacity_per_day: Option<i64>,
    /// Shipments that wait there.
    #[serde(default)]
    backlog: Option<i64>,
    /// Who collects there.
    #[serde(default)]
    carriers: Option<Vec<String>>,
    /// All costs anew, in minor units by `<carrier>/<country>`.
    #[serde(default)]
    costs: Option<BTreeMap<String, i64>>,
    /// Takes part in allocation.
    #[serde(default)]
    active: Option<bool>,
}

/// A fulfillment node.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Node)]
pub(in crate::http) struct NodeOut {
    /// Its name in stock keys and allocations.
    #[schema(value_type = String)]
    id: NodeId,
    /// What people call it.
    name: String,
    /// What kind of place.
    #[schema(value_type = String)]
    kind: NodeKind,
    /// The region that owns it.
    #[schema(value_type = String)]
    region: RegionId,
    /// ISO 3166 alpha-2.
    country: String,
    /// Degrees, north positive.
    latitude: f64,
    /// Degrees, east positive.
    longitude: f64,
    /// Shipments it can send a day.
    capacity_per_day: u32,
    /// Shipments that wait there.
    backlog: u32,
    /// Who collects there.
    carriers: Vec<String>,
    /// Shipping cost in minor units by `<carrier>/<country>`.
    costs: BTreeMap<String, i64>,
    /// Takes part in allocation.
    active: bool,
}

impl NodeBody {
    /// The checked node. Its stamp is set when it is written.
    pub(in crate::http) fn check(
        &self,
        own: RegionId,
        known: impl Fn(RegionId) -> bool,
    ) -> Result<Node, Problem> {
        let mut faults = Faults::default();
        let id: Option<NodeId> = faults.parse("id", &self.id);
        let region = self.region.unwrap_or(own);
        if !known(region) {
            faults.add("region", format!("{region} is not a region of this deployment"));
        }
        let blank = Node {
            id: id.unwrap_or_else(|| "x".parse().expect("a legal node")),
            name: self.id.clone(),
            kind: self.kind,
            region,
            country: String::new(),
            latitude_e6: 0,
            longitude_e6: 0,
            capacity_per_day: 1_000,
            backlog: 0,
            carriers: Vec::new(),
            costs: BTreeMap::new(),
            active: self.active,
            hlc: HlcTimestamp::origin(own),
        };
        let patch = NodePatch {
            name: self.name.clone(),
            kind: None,
            country: Some(self.country.clone()),
            latitude: self.latitude.clone(),
            longitude: self.longitude.clone(),
            capacity_per_day: self.capacity_per_day,
            backlog: self.backlog,
            carriers: Some(self.carriers.clone()),
            costs: Some(self.costs.clone()),
            active: None,
        };
        let node = patch.over(blank, &mut faults);
        faults.finish(Some(node))
    }

    /// Identifies the request for its idempotency key.
    pub(in crate::http) fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values")
    }
}

impl NodePatch {
    /// The node with the changes made.
    pub(in crate::http) fn apply(&self, node: Node) -> Result<Node, Problem> {
        let mut faults = Faults::default();
        let node = self.over(node, &mut faults);
        faults.finish(Some(node))
    }

    fn over(&self, mut node: Node, faults: &mut Faults) -> Node {
        if let Some(name) = &self.name {
            node.name = faults.text("name", name, 200);
        }
        node.kind = self.kind.unwrap_or(node.kind);
        if let Some(country) = &self.country {
            node.country = faults.country("country", country);
        }
        if let Some(latitude) = &self.latitude {
            node.latitude_e6 = degrees("latitude", latitude, 90, faults);
        }
        if let Some(longitude) = &self.longitude {
            node.longitude_e6 = degrees("longitude", longitude, 180, faults);
        }
        if let Some(capacity) = self.capacity_per_day {
            let capacity = faults.within("capacity_per_day", capacity, 0..=CAPACITY_MAX);
            node.capacity_per_day = capacity.unwrap_or(0);
        }
        if let Some(backlog) = self.backlog {
            node.backlog = faults.within("backlog", backlog, 0..=CAPACITY_MAX).unwrap_or(0);
        }
        if let Some(carriers) = &self.carriers {
            if carriers.len() > CARRIERS_MAX {
                faults.add("carriers", format!("must have at most {CARRIERS_MAX} entries"));
            } else {
                let checked = carriers.iter().enumerate();
                node.carriers = checked
                    .map(|(index, name)| faults.text(format!("carriers[{index}]"), name, 64))
                    .collect();
            }
        }
        if let Some(costs) = &self.costs {
            if costs.len() > COSTS_MAX {
                faults.add("costs", format!("must have at most {COSTS_MAX} entries"));
            }
            for (route, cost) in costs {
                faults.text("costs", route, 100);
                if !(0..=1_000_000_000).contains(cost) {
                    faults.add(format!("costs.{route}"), "must be between 0 and 1000000000");
                }
            }
            node.costs.clone_from(costs);
        }
        node.active = self.active.unwrap_or(node.active);
        node
    }
}

/// Degrees in millionths, read from the digits: the same integer in every region, whatever a float is.
fn degrees(field: &str, number: &Number, bound: i32, faults: &mut Faults) -> i32 {
    let text = number.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |digits| (-1, digits));
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let decimals = decimals.get(..6.min(decimals.len())).unwrap_or("0");
    let millionths = format!("{decimals:0<6}").parse::<i32>().ok();
    let value = whole.parse::<i32>().ok().and_then(|whole| whole.checked_mul(1_000_000));
    let value = value.zip(millionths).and_then(|(whole, part)| whole.checked_add(part));
    let bound_e6 = bound * 1_000_000;
    if let Some(value) = value.filter(|value| *value <= bound_e6) {
        return sign * value;
    }
    faults.add(field, format!("must be degrees between -{bound} and {bound}"));
    0
}

fn as_degrees(millionths: i32) -> f64 {
    let sign = if millionths < 0 { "-" } else { "" };
    let magnitude = millionths.unsigned_abs();
    let text = format!("{sign}{}.{:06}", magnitude / 1_000_000, magnitude % 1_000_000);
    text.parse().expect("digits and a point")
}

impl From<Node> for NodeOut {
    fn from(node: Node) -> Self {
        Self {
            id: node.id,
            name: node.name,
            kind: node.kind,
            region: node.region,
            country: node.country,
            latitude: as_degrees(node.latitude_e6),
            longitude: as_degrees(node.longitude_e6),
            capacity_per_day: node.capacity_per_day,
            backlog: node.backlog,
            carriers: node.carriers,
            costs: node.costs,
            active: node.active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[expect(clippy::unwrap_in_result, reason = "what the test itself brings is sound")]
    fn check(body: serde_json::Value) -> Result<Node, Vec<String>> {
        let body: NodeBody = serde_json::from_value(body).unwrap();
        let fields = |problem: Problem| problem.errors.into_iter().map(|e| e.field).collect();
        let own = "eu-west".parse().unwrap();
        body.check(own, |region| region.as_str() != "mars").map_err(fields)
    }

    #[test]
    fn nodes_are_checked() {
        let good = json!({"id": "w-1", "kind": "warehouse", "country": "DE", "latitude": -22.9099, "longitude": 12});
        let node = check(good.clone()).unwrap();
        assert_eq!((node.latitude_e6, node.longitude_e6), (-22_909_900, 12_000_000));
        assert_eq!(
            serde_json::to_value(NodeOut::from(node.clone())).unwrap()["latitude"],
            -22.9099
        );
        assert_eq!(
            (node.region.as_str(), node.name.as_str(), node.active),
            ("eu-west", "w-1", true)
        );
        for (member, bad, field) in [
            ("id", json!(" "), "id"),
            ("region", json!("mars"), "region"),
            ("country", json!("Germany"), "country"),
            ("latitude", json!(90.5), "latitude"),
            ("longitude", json!(-181), "longitude"),
            ("longitude", json!(1e300), "longitude"),
            ("capacity_per_day", json!(-1), "capacity_per_day"),
            ("carriers", json!([""]), "carriers[0]"),
            ("costs", json!({"dhl/DE": -5}), "costs.dhl/DE"),
        ] {
            let mut body = good.clone();
            body[member] = bad;
            assert_eq!(check(body), Err(vec![field.to_owned()]));
        }
        let patch: NodePatch =
            serde_json::from_value(json!({"active": false, "backlog": 7})).unwrap();
        assert_eq!(patch.apply(node.clone()).unwrap(), Node { active: false, backlog: 7, ..node });
    }
}
