//! The countries of the history: their codes, and an address there for parcels.
//!
//! The history names countries in the shop's own words (`EIRE`, `RSA`, `Channel Islands`); orders need
//! ISO 3166 codes. Which region serves a country is the deployment's own business (`homes`).

/// A country of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Country {
    /// The shop's name for it.
    pub(super) name: &'static str,
    /// ISO 3166, two letters.
    pub(super) code: &'static str,
    /// A city for the parcels.
    pub(super) city: &'static str,
    /// A postal code of that city.
    pub(super) postal_code: &'static str,
}

const fn country(
    name: &'static str,
    code: &'static str,
    city: &'static str,
    postal_code: &'static str,
) -> Country {
    Country { name, code, city, postal_code }
}

/// Every country of the two known years, and some neighbors. Sorted by name.
const COUNTRIES: &[Country] = &[
    country("Australia", "AU", "Sydney", "2000"),
    country("Austria", "AT", "Wien", "1010"),
    country("Bahrain", "BH", "Manama", "317"),
    country("Belgium", "BE", "Bruxelles", "1000"),
    country("Bermuda", "BM", "Hamilton", "HM 11"),
    country("Brazil", "BR", "São Paulo", "01310-100"),
    country("Canada", "CA", "Toronto", "M5H 2N2"),
    country("Channel Islands", "JE", "St Helier", "JE2 3AB"),
    country("China", "CN", "Shanghai", "200000"),
    country("Cyprus", "CY", "Nicosia", "1010"),
    country("Czech Republic", "CZ", "Praha", "110 00"),
    country("Denmark", "DK", "København", "1050"),
    country("EIRE", "IE", "Dublin", "D02 X285"),
    country("European Community", "BE", "Bruxelles", "1040"),
    country("Finland", "FI", "Helsinki", "00100"),
    country("France", "FR", "Paris", "75002"),
    country("Germany", "DE", "Berlin", "10115"),
    country("Greece", "GR", "Athina", "105 57"),
    country("Hong Kong", "HK", "Hong Kong", "999077"),
    country("Iceland", "IS", "Reykjavík", "101"),
    country("India", "IN", "Mumbai", "400001"),
    country("Ireland", "IE", "Dublin", "D02 X285"),
    country("Israel", "IL", "Tel Aviv", "6100000"),
    country("Italy", "IT", "Milano", "20121"),
    country("Japan", "JP", "Tokyo", "100-0001"),
    country("Korea", "KR", "Seoul", "04524"),
    country("Lebanon", "LB", "Beirut", "1107"),
    country("Lithuania", "LT", "Vilnius", "01100"),
    country("Malta", "MT", "Valletta", "VLT 1117"),
    country("Netherlands", "NL", "Amsterdam", "1012 AB"),
    country("New Zealand", "NZ", "Auckland", "1010"),
    country("Nigeria", "NG", "Lagos", "100001"),
    country("Norway", "NO", "Oslo", "0150"),
    country("Poland", "PL", "Warszawa", "00-001"),
    country("Portugal", "PT", "Lisboa", "1100-148"),
    country("RSA", "ZA", "Cape Town", "8001"),
    country("Saudi Arabia", "SA", "Riyadh", "11564"),
    country("Singapore", "SG", "Singapore", "018956"),
    country("Spain", "ES", "Madrid", "28001"),
    country("Sweden", "SE", "Stockholm", "111 20"),
    country("Switzerland", "CH", "Zürich", "8001"),
    country("Thailand", "TH", "Bangkok", "10200"),
    country("USA", "US", "New York", "10001"),
    country("United Arab Emirates", "AE", "Dubai", "00000"),
    country("United Kingdom", "GB", "London", "EC1A 1BB"),
    country("United States", "US", "New York", "10001"),
    country("Unspecified", "GB", "London", "EC1A 1BB"),
    country("West Indies", "BB", "Bridgetown", "BB11000"),
];

/// The country of a name. An unknown one is treated as `Unspecified`.
pub(super) fn country_named(name: &str) -> &'static Country {
    let unspecified = || COUNTRIES.iter().find(|country| country.name == "Unspecified");
    COUNTRIES
        .iter()
        .find(|country| country.name.eq_ignore_ascii_case(name))
        .or_else(unspecified)
        .expect("the table has `Unspecified`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_codes_are_codes() {
        assert!(COUNTRIES.windows(2).all(|pair| pair[0].name < pair[1].name));
        for country in COUNTRIES {
            let code = country.code.as_bytes();
            assert!(code.len() == 2 && code.iter().all(u8::is_ascii_uppercase), "{country:?}");
            assert!(!country.city.is_empty() && !country.postal_code.is_empty(), "{country:?}");
        }
    }

    #[test]
    fn the_shops_own_words_are_understood() {
        let cases = [("EIRE", "IE"), ("RSA", "ZA"), ("Channel Islands", "JE"), ("usa", "US")];
        for (name, code) in cases {
            assert_eq!(country_named(name).code, code);
        }
        assert_eq!(country_named("").code, "GB");
        assert_eq!(country_named("Atlantis").name, "Unspecified");
    }
}
