//! Placing an order: what the provider's answers and the fraud check mean for it.

use serde::{Deserialize, Serialize};

use crate::domain::fraud::FraudVerdict;
use crate::mutants::{Mutant, is_on};
use crate::types::PaymentId;

/// How often a provider that gives no answer is asked before the order is given up. With the
/// backoff between (0.2 s doubling to 5 s) and a 3 s time-out this is under a minute: shoppers have
/// left by then, and the stock they hold is wanted by others.
pub const AUTHORIZE_ATTEMPTS_MAX: u32 = 8;

/// How long a provider that says "later" is waited for. Under the five minutes after which a saga
/// counts as stuck (I-16).
pub const PENDING_PATIENCE_MS: u64 = 240_000;

/// What is known of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Money is held; the provider's reference.
    Authorized(String),
    /// Nothing is held and nothing will be; the provider's reason.
    Declined(String),
    /// The provider will tell later.
    Pending,
    /// Nothing is held any more under the key, nor will be; the provider's reference.
    Voided(String),
    /// The provider refuses the request itself: asking again is no use.
    Refused(String),
    /// No usable answer: it may be held or not.
    Unknown(String),
}

/// How a payment of an order that is undone ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was ever held; the provider's reason.
    Declined(String),
    /// What was held is given back, or the key was closed before anything was; the provider's reference.
    Voided(String),
}

/// All that is known at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Of each payment.
    pub payments: Vec<(PaymentId, Finding)>,
    /// Of the order.
    pub fraud: FraudVerdict,
    /// Age of the saga.
    pub age_ms: u64,
    /// How often the provider was asked, this time included.
    pub attempts: u32,
}

/// Why an order is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CompensationReason {
    /// The provider said no.
    PaymentDeclined {
        /// Its reason.
        code: String,
    },
    /// The fraud check, ours or the provider's, said no.
    FraudRejected,
    /// The provider did not decide in time.
    PaymentUnavailable,
    /// The provider refuses what we ask of it: a fault on our side or on its.
    PaymentRefused,
    /// Another region took the same intent and its order stands.
    Duplicate,
}

impl CompensationReason {
    /// The stable code of the cancelled order and of the answer.
    pub fn code(&self) -> &'static str {
        match self {
            Self::PaymentDeclined { .. } => "payment_declined",
            Self::FraudRejected => "fraud_rejected",
            Self::PaymentUnavailable | Self::PaymentRefused => "dependency_unavailable",
            Self::Duplicate => "duplicate",
        }
    }

    /// For people.
    pub fn detail(&self) -> String {
        match self {
            Self::PaymentDeclined { code } => {
                format!(
                    "The payment was declined ({code}). No money is held, no stock is reserved."
                )
            }
            Self::FraudRejected => {
                "The order was refused by the fraud check. No money is held, no stock is reserved."
                    .to_owned()
            }
            Self::PaymentUnavailable => {
                "The payment provider did not decide in time. Whatever it held is \
                 given back, no stock is reserved; try again with a new idempotency key."
                    .to_owned()
            }
            Self::PaymentRefused => {
                "The payment provider refuses the request. No money is held, no stock is \
                 reserved; try again with a new idempotency key, and with another payment if this repeats."
                    .to_owned()
            }
            Self::Duplicate => {
                "The same request was taken in another region, and that order stands.".to_owned()
            }
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All money is held: confirm, with the provider's references.
    Confirm(Vec<(PaymentId, String)>),
    /// Undo.
    Compensate {
        /// Why.
        reason: CompensationReason,
        /// Payments whose money is or may be held: they must be voided first.
        void: Vec<PaymentId>,
    },
    /// Ask the provider by key again, after a pause.
    AskAgain,
}

/// Judges.
pub fn judge(findings: &Findings) -> Verdict {
    let forgotten =
        |finding: &Finding| is_on(Mutant::PendingIsNothing) && matches!(finding, Finding::Pending);
    let held = || {
        let maybe_held = findings
            .payments
            .iter()
            .filter(|(_, finding)| !matches!(finding, Finding::Declined(_) | Finding::Voided(_)))
            .filter(|(_, finding)| !forgotten(finding));
        maybe_held.map(|(id, _)| *id).collect::<Vec<_>>()
    };
    let compensate = |reason| Verdict::Compensate { reason, void: held() };
    if findings.fraud == FraudVerdict::Reject {
        return compensate(CompensationReason::FraudRejected);
    }
    let declined = findings.payments.iter().find_map(|(_, finding)| match finding {
        Finding::Declined(code) => Some(code.as_str()),
        Finding::Voided(_) => Some("voided"),
        Finding::Authorized(_) | Finding::Pending | Finding::Refused(_) | Finding::Unknown(_) => {
            None
        }
    });
    if let Some(code) = declined {
        return compensate(if code == "fraud" {
            CompensationReason::FraudRejected
        } else {
            CompensationReason::PaymentDeclined { code: code.to_owned() }
        });
    }
    if findings.payments.iter().any(|(_, finding)| matches!(finding, Finding::Refused(_))) {
        return compensate(CompensationReason::PaymentRefused);
    }
    let references: Option<Vec<_>> = findings
        .payments
        .iter()
        .map(|(id, finding)| match finding {
            Finding::Authorized(reference) => Some((*id, reference.clone())),
            Finding::Declined(_)
            | Finding::Voided(_)
            | Finding::Pending
            | Finding::Refused(_)
            | Finding::Unknown(_) => None,
        })
        .collect();
    if let Some(references) = references {
        return Verdict::Confirm(references);
    }
    let unknown =
        findings.payments.iter().any(|(_, finding)| matches!(finding, Finding::Unknown(_)));
    let out_of_patience = if unknown {
        findings.attempts >= AUTHORIZE_ATTEMPTS_MAX
    } else {
        findings.age_ms >= PENDING_PATIENCE_MS
    };
    if out_of_patience && !is_on(Mutant::AsksForEver) {
        compensate(CompensationReason::PaymentUnavailable)
    } else {
        Verdict::AskAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finding() -> impl Strategy<Value = Finding> {
        prop_oneof![
            Just(Finding::Authorized("ref".to_owned())),
            Just(Finding::Declined("insufficient_funds".to_owned())),
            Just(Finding::Voided("ref".to_owned())),
            Just(Finding::Pending),
            Just(Finding::Refused("bad amount".to_owned())),
            Just(Finding::Unknown("time-out".to_owned())),
        ]
    }

    proptest! {
        /// I-07, I-10: confirmed only when all money is held; undone only after all that may be held is voided;
        /// I-16: always decided in the end.
        #[test]
        fn verdicts_are_safe_and_final(
            findings in prop::collection::vec(finding(), 0..4),
            reject: bool,
            attempts in 0u32..20,
            age_ms in 0u64..600_000,
        ) {
            let payments: Vec<_> = findings.into_iter().enumerate()
                .map(|(index, finding)| (PaymentId(uuid::Uuid::from_u128(index as u128)), finding)).collect();
            let fraud = if reject { FraudVerdict::Reject } else { FraudVerdict::Pass };
            let findings = Findings { payments: payments.clone(), fraud, age_ms, attempts };
            match judge(&findings) {
                Verdict::Confirm(references) => {
                    prop_assert!(!reject);
                    prop_assert_eq!(references.len(), payments.len());
                    prop_assert!(payments.iter().all(|(_, finding)| matches!(finding, Finding::Authorized(_))));
                }
                Verdict::Compensate { void, .. } => {
                    for (id, finding) in &payments {
                        let never_held = matches!(finding, Finding::Declined(_) | Finding::Voided(_));
                        prop_assert_eq!(void.contains(id), !never_held);
                    }
                }
                Verdict::AskAgain => {
                    prop_assert!(attempts < AUTHORIZE_ATTEMPTS_MAX || age_ms < PENDING_PATIENCE_MS);
                    prop_assert!(!payments.iter().any(|(_, finding)| matches!(finding, Finding::Refused(_))));
                }
            }
        }
    }
}
