//! What a payment token makes the simulator do. The names are the public contract.

use std::str::FromStr;
use std::time::Duration;

/// The longest `tok_slow_<ms>`: beyond every time-out a client could have, short of holding a
/// connection for good.
const SLOW_MS_MAX: u64 = 60_000;

/// The most failures of `tok_flaky_<n>`: more than any bounded retry makes.
const FLAKY_FAILURES_MAX: u32 = 1_000;

/// Why a hold is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decline {
    Declined,
    InsufficientFunds,
    Fraud,
    InvalidToken,
}

impl Decline {
    const ALL: [Self; 4] =
        [Self::Declined, Self::InsufficientFunds, Self::Fraud, Self::InvalidToken];

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Declined => "declined",
            Self::InsufficientFunds => "insufficient_funds",
            Self::Fraud => "fraud",
            Self::InvalidToken => "invalid_token",
        }
    }

    pub(crate) fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decline| decline.code() == code)
    }
}

/// What happens to the first authorization under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Money is held.
    Hold,
    /// Nothing is held, for this reason.
    Decline(Decline),
    /// Money is held and nobody is told.
    HoldInSilence,
    /// Nothing is held and nobody is told.
    Silence,
    /// Money is held after a while, whether or not the client still waits.
    HoldAfter(Duration),
    /// The first attempts under the key fail with a server error.
    FailThenHold(u32),
    /// Pending; a moment later held, told by webhook.
    HoldLater,
}

impl Behavior {
    /// The behavior a token names. Every other text is a card nobody issued.
    pub(crate) fn of(token: &str) -> Self {
        if let Some(ms) = number(token, "tok_slow_", SLOW_MS_MAX) {
            return Self::HoldAfter(Duration::from_millis(ms));
        }
        if let Some(failures) = number(token, "tok_flaky_", FLAKY_FAILURES_MAX) {
            return Self::FailThenHold(failures);
        }
        match token {
            "tok_ok" => Self::Hold,
            "tok_declined" => Self::Decline(Decline::Declined),
            "tok_insufficient_funds" => Self::Decline(Decline::InsufficientFunds),
            "tok_fraud" => Self::Decline(Decline::Fraud),
            "tok_timeout_charged" => Self::HoldInSilence,
            "tok_timeout_lost" => Self::Silence,
            "tok_async" => Self::HoldLater,
            _ => Self::Decline(Decline::InvalidToken),
        }
    }
}

fn number<N: FromStr + PartialOrd + Copy>(token: &str, prefix: &str, max: N) -> Option<N> {
    let digits = token.strip_prefix(prefix)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| plain && *number <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_tokens_are_bounded() {
        assert_eq!(Behavior::of("tok_slow_60000"), Behavior::HoldAfter(Duration::from_mins(1)));
        assert_eq!(Behavior::of("tok_flaky_2"), Behavior::FailThenHold(2));
        for bad in ["tok_slow_60001", "tok_slow_", "tok_slow_+1", "tok_flaky_-1", "tok_flaky_1001"]
        {
            assert_eq!(Behavior::of(bad), Behavior::Decline(Decline::InvalidToken), "{bad}");
        }
    }

    #[test]
    fn reasons_survive_the_ledger() {
        for decline in Decline::ALL {
            assert_eq!(Decline::from_code(decline.code()), Some(decline));
        }
    }
}
