//! What goes over the wire: requests with every field checked, answers as the contract names them.
//!
//! Requests are read into types with plain texts and numbers, and then checked as a whole, so that one
//! answer names everything that is wrong with them. None of these types leaves `http`.

pub(super) mod catalogue;
mod countries;
pub(super) mod inventory;
pub(super) mod nodes;
pub(super) mod order;
pub(super) mod place;
pub(super) mod reconciliation;
pub(super) mod regions;
pub(super) mod retirement;
pub(super) mod routing;
pub(super) mod saga;
pub(super) mod stranded;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::{Currency, check_text};

use super::problem::{FieldError, Problem};

/// An amount in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MoneyIn {
    /// Minor units (cents, pence, paise).
    #[schema(example = 1999)]
    pub(super) amount: i64,
    /// ISO 4217.
    #[schema(example = "EUR")]
    pub(super) currency: String,
}

/// An amount in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Money)]
pub(super) struct MoneyOut {
    /// Minor units (cents, pence, paise).
    #[schema(example = 1999)]
    pub(super) amount: i64,
    /// ISO 4217.
    #[schema(value_type = String, example = "EUR")]
    pub(super) currency: Currency,
}

/// RFC 3339 in UTC.
pub(super) fn rfc3339(wall_ms: u64) -> String {
    let stamp =
        i64::try_from(wall_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(String::new, |stamp| format!("{stamp:.3}"))
}

/// Milliseconds since 1970 of an RFC 3339 time.
pub(super) fn parse_rfc3339(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
}

/// Everything that is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<FieldError>);

impl Faults {
    pub(super) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError::new(field, message));
    }

    /// A text as `T`, or a fault.
    pub(super) fn parse<T>(&mut self, field: impl Into<String>, text: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(field, error.to_string());
                None
            }
        }
    }

    /// A text that is not blank and not too long.
    pub(super) fn text(
        &mut self,
        field: impl Into<String>,
        text: &str,
        bytes_max: usize,
    ) -> String {
        if let Err(error) = check_text(text, bytes_max) {
            self.add(field, error.to_string());
        }
        text.to_owned()
    }

    /// A text that may be absent; an empty one counts as absent.
    pub(super) fn optional_text(
        &mut self,
        field: &str,
        text: Option<&str>,
        bytes_max: usize,
    ) -> Option<String> {
        text.filter(|text| !text.is_empty()).map(|text| self.text(field, text, bytes_max))
    }

    /// A number within bounds.
    pub(super) fn within<T>(
        &mut self,
        field: impl Into<String>,
        value: i64,
        bounds: std::ops::RangeInclusive<i64>,
    ) -> Option<T>
    where
        T: TryFrom<i64>,
    {
        let fits = bounds.contains(&value).then(|| T::try_from(value).ok()).flatten();
        if fits.is_none() {
            self.add(field, format!("must be between {} and {}", bounds.start(), bounds.end()));
        }
        fits
    }

    /// A country's code.
    pub(super) fn country(&mut self, field: impl Into<String>, code: &str) -> String {
        if !countries::is_country(code) {
            self.add(field, "is not a country: two capital letters of ISO 3166, e.g. DE");
        }
        code.to_owned()
    }

    /// `value` if nothing was wrong. An absent value means that a fault was noted.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Problem> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(Problem::validation(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        assert_eq!(rfc3339(1_790_000_000_007), "2026-09-21T14:13:20.007Z");
        assert_eq!(parse_rfc3339("2026-09-21T14:13:20.007Z"), Some(1_790_000_000_007));
        assert_eq!(parse_rfc3339("2026-09-21T16:13:20.007+02:00"), Some(1_790_000_000_007));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
