//! Who asks, and what they may do.
//!
//! Every route but the operations endpoints states its roles where it is registered
//! ([`super::routes`]); the guard in front of the handler checks token, role and rate, and hands the
//! [`Principal`] to the handler. A customer sees only their own orders (I-27): another's answers
//! exactly like one that does not exist.

pub mod issuer;
mod keys;
mod verifier;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::mutants::{Mutant, is_on};
use crate::types::{CustomerId, RegionId};

use super::problem::{Code, Problem};

pub use verifier::{Settings, Verifier};

/// What kind of client a token speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// A shopper: their own orders.
    Customer,
    /// An employee: every order, stock, the catalogue.
    Staff,
    /// Another program of ours or a channel's: places orders for anybody, names prices.
    Service,
    /// An operator: regions and sagas as well.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Self] = &[Self::Customer, Self::Staff, Self::Service, Self::Admin];

    /// As in the token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Staff => "staff",
            Self::Service => "service",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: customer, staff, service or admin")]
pub struct BadRole(String);

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let role = Self::ALL.iter().find(|role| role.as_str() == text);
        role.copied().ok_or_else(|| BadRole(text.to_owned()))
    }
}

/// Who asks, out of a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's subject; the name under which idempotency keys and rates are counted.
    pub subject: String,
    /// What they may do.
    pub role: Role,
    /// Whose orders they see; only customers have one.
    pub customer_id: Option<CustomerId>,
    /// Where their orders live, as the load balancer reads it too.
    pub home_region: Option<RegionId>,
}

impl Principal {
    /// Whether an order of `owner` is theirs to see.
    pub fn may_see(&self, owner: Option<&CustomerId>) -> bool {
        if is_on(Mutant::EverybodySeesAll) {
            return true;
        }
        match self.role {
            Role::Customer => self.customer_id.is_some() && self.customer_id.as_ref() == owner,
            Role::Staff | Role::Service | Role::Admin => true,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(role: Role, subject: &str) -> Self {
        let customer_id = (role == Role::Customer).then(|| subject.parse().unwrap());
        Self { subject: subject.to_owned(), role, customer_id, home_region: None }
    }
}

/// The principal that the guard has let in.
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<Principal>);

impl std::ops::Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // A route without a guard has no caller: refuse rather than serve anybody.
        let problem = || Problem::new(Code::Unauthenticated, "this address needs a token");
        parts.extensions.get::<Self>().cloned().ok_or_else(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customers_see_their_own_only() {
        let customer = Principal::for_tests(Role::Customer, "alice");
        let alice: CustomerId = "alice".parse().unwrap();
        let bob: CustomerId = "bob".parse().unwrap();
        assert!(customer.may_see(Some(&alice)));
        assert!(!customer.may_see(Some(&bob)) && !customer.may_see(None));
        for role in [Role::Staff, Role::Service, Role::Admin] {
            assert!(Principal::for_tests(role, "x").may_see(Some(&bob)));
        }
    }
}
