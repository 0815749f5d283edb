//! The home region of each shopper. Pure.
//!
//! A country's shoppers have the region that the deployment's `[countries]` names, as at the load
//! balancer. The British have 92 % of the invoices, and would leave two regions of three idle: they, and
//! shoppers of no country, are spread over all regions by a hash of the customer's id (of the
//! invoice's number where there is no customer): the first eight bytes of SHA-256, big-endian,
//! modulo the number of regions, which stand in order of their names. So a customer always has the
//! same home, in every replay of every file.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::countries::country_named;
use super::parse::Invoice;
use crate::types::{CustomerId, RegionId};

/// The country whose shoppers are spread.
const SPREAD_COUNTRY: &str = "GB";

/// Who serves whom.
#[derive(Debug, Clone)]
pub(super) struct Homes {
    /// In order of their names.
    pub(super) regions: Vec<RegionId>,
    /// ISO 3166 codes and who serves them.
    pub(super) countries: BTreeMap<String, RegionId>,
    /// Serves the other countries.
    pub(super) default_region: RegionId,
}

impl Homes {
    /// The home of an invoice's shopper, as an index into the regions.
    pub(super) fn of(&self, invoice: &Invoice) -> usize {
        let code = country_named(&invoice.country).code;
        if code == SPREAD_COUNTRY {
            let key = invoice.customer.as_ref().map_or(&*invoice.number, CustomerId::as_str);
            return self.spread(key);
        }
        let region = self.countries.get(code).unwrap_or(&self.default_region);
        self.regions.iter().position(|known| known == region).unwrap_or(0)
    }

    fn spread(&self, key: &str) -> usize {
        let digest = Sha256::digest(key);
        let first = digest.first_chunk::<8>().expect("SHA-256 has 32 bytes");
        let index = u64::from_be_bytes(*first) % self.regions.len() as u64;
        usize::try_from(index).expect("less than the regions")
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The regions of the local deployment.
    pub(in crate::cli::replay) fn three_regions() -> Homes {
        let [asia, europe, america]: [RegionId; 3] =
            ["ap-south", "eu-west", "us-east"].map(|name| name.parse().unwrap());
        let countries = [("FR", europe), ("JP", asia), ("US", america)];
        Homes {
            regions: vec![asia, europe, america],
            countries: countries.map(|(code, region)| (code.to_owned(), region)).into(),
            default_region: america,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replay::parse::Kind;

    fn home(customer: Option<&str>, number: &str, country: &str) -> String {
        let invoice = Invoice {
            number: number.into(),
            kind: Kind::Sale,
            at: 0,
            customer: customer.map(|id| id.parse().unwrap()),
            country: country.into(),
            lines: Vec::new(),
            unreadable: 0,
        };
        let homes = testing::three_regions();
        homes.regions[homes.of(&invoice)].to_string()
    }

    #[test]
    fn a_countrys_shoppers_have_its_region() {
        assert_eq!(home(Some("12583"), "1", "France"), "eu-west");
        assert_eq!(home(None, "1", "Japan"), "ap-south");
        assert_eq!(home(Some("1"), "1", "USA"), "us-east");
        assert_eq!(home(Some("1"), "1", "Iceland"), "us-east", "the default region");
    }

    #[test]
    fn the_british_are_spread_and_each_keeps_their_home() {
        // Pinned, computed by an independent program: the rule must not change between versions.
        assert_eq!(home(Some("17850"), "1", "United Kingdom"), "eu-west");
        assert_eq!(home(Some("17850"), "2", "Unspecified"), "eu-west");
        assert_eq!(home(None, "536544", "United Kingdom"), "eu-west");
        assert_eq!(home(Some("12348"), "1", "United Kingdom"), "ap-south");
        assert_eq!(home(Some("12349"), "1", "United Kingdom"), "us-east");
        let mut counts = BTreeMap::<String, u32>::new();
        for customer in 12_000..12_300 {
            let home = home(Some(&customer.to_string()), "1", "United Kingdom");
            *counts.entry(home).or_default() += 1;
        }
        assert_eq!(counts.len(), 3);
        assert!(counts.values().all(|&count| count > 70), "{counts:?}");
    }
}
