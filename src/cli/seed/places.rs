//! The fulfillment nodes that a seeded deployment has: real cities, a warehouse and a store a region.

use serde_json::{Value, json};

use crate::types::RegionId;

/// A city with its coordinates in decimal degrees, as text so that nothing rounds them.
struct City {
    name: &'static str,
    country: &'static str,
    latitude: &'static str,
    longitude: &'static str,
}

const fn city(
    name: &'static str,
    country: &'static str,
    latitude: &'static str,
    longitude: &'static str,
) -> City {
    City { name, country, latitude, longitude }
}

/// Two cities for the regions whose name begins so: warehouse and store. The first match counts.
const PLACES: &[(&str, City, City)] = &[
    (
        "us-west",
        city("Reno", "US", "39.5296", "-119.8138"),
        city("San Francisco", "US", "37.7749", "-122.4194"),
    ),
    (
        "us",
        city("Newark", "US", "40.7357", "-74.1724"),
        city("New York", "US", "40.7580", "-73.9855"),
    ),
    (
        "eu-central",
        city("Frankfurt", "DE", "50.1109", "8.6821"),
        city("Berlin", "DE", "52.5200", "13.4050"),
    ),
    ("eu", city("Dublin", "IE", "53.3498", "-6.2603"), city("Paris", "FR", "48.8566", "2.3522")),
    (
        "ap-north",
        city("Osaka", "JP", "34.6937", "135.5023"),
        city("Tokyo", "JP", "35.6762", "139.6503"),
    ),
    (
        "ap-southeast",
        city("Jurong", "SG", "1.3329", "103.7436"),
        city("Singapore", "SG", "1.3521", "103.8198"),
    ),
    (
        "ap",
        city("Bhiwandi", "IN", "19.2813", "73.0483"),
        city("Bengaluru", "IN", "12.9716", "77.5946"),
    ),
    (
        "sa",
        city("Campinas", "BR", "-22.9099", "-47.0626"),
        city("São Paulo", "BR", "-23.5505", "-46.6333"),
    ),
    ("", city("Felixstowe", "GB", "51.9617", "1.3513"), city("London", "GB", "51.5072", "-0.1276")),
];

/// A node to be created.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct NodeSpec {
    /// Its id.
    pub(in crate::cli) id: String,
    /// Its owner.
    pub(in crate::cli) region: RegionId,
    /// The body of the request.
    pub(in crate::cli) body: Value,
}

/// The warehouse of a region, `<prefix><region>`.
pub(in crate::cli) fn warehouse(prefix: &str, region: RegionId) -> NodeSpec {
    let (_, place, _) = places_of(region);
    node(format!("{prefix}{region}"), "warehouse", region, place, 20_000, &["dhl", "ups", "fedex"])
}

/// The store of a region, `<prefix><region>`.
pub(in crate::cli) fn store(prefix: &str, region: RegionId) -> NodeSpec {
    let (_, _, place) = places_of(region);
    node(format!("{prefix}{region}"), "store", region, place, 500, &["dhl"])
}

fn places_of(region: RegionId) -> &'static (&'static str, City, City) {
    let name = region.as_str();
    PLACES.iter().find(|(prefix, ..)| name.starts_with(prefix)).expect("the last one fits all")
}

fn node(
    id: String,
    kind: &str,
    region: RegionId,
    place: &City,
    capacity_per_day: u32,
    carriers: &[&str],
) -> NodeSpec {
    let degrees = |text: &str| text.parse::<f64>().expect("the table holds numbers");
    let body = json!({
        "id": id,
        "name": format!("{} {kind}", place.name),
        "kind": kind,
        "region": region,
        "latitude": degrees(place.latitude),
        "longitude": degrees(place.longitude),
        "country": place.country,
        "capacity_per_day": capacity_per_day,
        "backlog": 0,
        "carriers": carriers,
        "active": true,
    });
    NodeSpec { id, region, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_has_a_place_on_earth() {
        for name in ["us-east", "us-west", "eu-west", "ap-south", "ap-northeast", "me-south"] {
            let region: RegionId = name.parse().unwrap();
            for spec in [warehouse("wh-", region), store("st-", region)] {
                assert!(spec.id.ends_with(name));
                let latitude = spec.body["latitude"].as_f64().unwrap();
                let longitude = spec.body["longitude"].as_f64().unwrap();
                assert!(
                    (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude)
                );
            }
        }
        let mumbai = warehouse("wh-", "ap-south".parse().unwrap());
        assert_eq!(mumbai.body["country"], "IN");
    }
}
