//! Newtypes of ids. UUIDs are time-ordered (version 7): random keys cost half as much CPU again and
//! several times the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::RegionNumber;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_newtype!(
    /// An order. Its last byte is the number of its home region.
    OrderId
);
uuid_newtype!(
    /// A line of an order.
    LineId
);
uuid_newtype!(
    /// A hold on stock, made for a line at one node.
    ReservationId
);
uuid_newtype!(
    /// One payment of an order.
    PaymentId
);
uuid_newtype!(
    /// A long transaction.
    SagaId
);
uuid_newtype!(
    /// A report of reconciliation. Its last byte is the number of the region that keeps it.
    ReportId
);
uuid_newtype!(
    /// A movement of rights between two regions, named by the one that asks.
    TransferId
);

impl OrderId {
    /// Makes an order's id out of a time-ordered UUID and its home region.
    pub fn new(fresh: Uuid, home: RegionNumber) -> Self {
        let mut bytes = fresh.into_bytes();
        bytes[15] = home.0.get();
        Self(Uuid::from_bytes(bytes))
    }

    /// The home region, read from the id. `None` for an id that no region made.
    pub fn home(self) -> Option<RegionNumber> {
        std::num::NonZeroU8::new(self.0.as_bytes()[15]).map(RegionNumber)
    }
}

/// A time-ordered UUID (version 7) out of wall time and randomness.
pub fn uuid_v7(now_ms: u64, random: [u8; 10]) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid()
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The longest, in bytes.
            pub const BYTES_MAX: usize = $max;

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadText;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check_text(text, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                check_text(&text, $max).map_err(serde::de::Error::custom)?;
                Ok(Self(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Why a text can't be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// Nothing, or only white space at an end.
    #[error("must not be empty nor begin or end with a space")]
    Blank,
    /// Longer than the limit, in bytes.
    #[error("must be at most {0} bytes")]
    TooLong(usize),
    /// NUL or another control character: PostgreSQL refuses U+0000, and none has a place in an id.
    #[error("must not hold control characters")]
    Control,
}

/// The rule for every id that people choose: not blank, bounded, no control characters.
pub fn check_text(text: &str, bytes_max: usize) -> Result<(), BadText> {
    if text.is_empty() || text.trim() != text {
        return Err(BadText::Blank);
    }
    if text.len() > bytes_max {
        return Err(BadText::TooLong(bytes_max));
    }
    if text.chars().any(char::is_control) {
        return Err(BadText::Control);
    }
    Ok(())
}

text_newtype!(
    /// A sellable, stock-kept unit; the key of inventory.
    Sku,
    64
);
text_newtype!(
    /// A fulfillment node: a place that holds stock.
    NodeId,
    64
);
text_newtype!(
    /// Who the order is for, as the issuer of tokens names them.
    CustomerId,
    64
);

/// The key of a shared stock: a SKU at a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StockKey {
    /// What.
    pub sku: Sku,
    /// Where.
    pub node: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_id_tells_its_home() {
        let home = RegionNumber(std::num::NonZeroU8::new(3).unwrap());
        let early = OrderId::new(uuid_v7(1_000, [255; 10]), home);
        let late = OrderId::new(uuid_v7(1_001, [0; 10]), home);
        assert_eq!(early.home(), Some(home));
        assert!(early < late, "ids are time-ordered");
        assert_eq!(OrderId(Uuid::nil()).home(), None);
    }

    #[test]
    fn ids_of_people_are_checked() {
        for bad in ["", " a", "a ", "a\0b", "a\nb"] {
            assert!(bad.parse::<Sku>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(65).parse::<Sku>().is_err());
        assert!(serde_json::from_str::<Sku>("\"a\\u0000\"").is_err());
        assert_eq!("85123A".parse::<Sku>().unwrap().as_str(), "85123A");
    }
}
