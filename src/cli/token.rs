//! `entrepot token`: a bearer token of the local issuer.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::http::auth::Role;
use crate::http::auth::issuer::{self, Mint};
use crate::ports::Clock as _;
use crate::runtime::SystemClock;
use crate::types::{CustomerId, RegionId};

/// The longest life of a token: a test run or a demonstration, not a way around an identity provider.
const TTL_MAX: Duration = Duration::from_hours(30 * 24);

/// Prints a bearer token of the local issuer.
///
/// Only a local deployment (`entrepot up`) has one; everywhere else tokens come from the identity
/// provider.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  curl -H \"Authorization: Bearer $(entrepot token --role customer --customer alice)\" \\\n       http://127.0.0.1:8080/api/v1/orders"
)]
pub(super) struct Args {
    /// What its bearer may do.
    #[arg(long, value_enum)]
    role: Role,
    /// Whose orders: the customer's id. For other roles the name of the employee or program.
    #[arg(long, value_name = "ID")]
    customer: Option<CustomerId>,
    /// Where the customer's orders live; the load balancer sends them there.
    #[arg(long, value_name = "REGION")]
    home_region: Option<RegionId>,
    /// How long it is good: a number and s, m, h or d.
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// The data directory of the local deployment.
    #[arg(long, env = "ENTREPOT_DATA_DIR", default_value = ".entrepot")]
    data_dir: PathBuf,
    /// Prints a JSON object with token, role, subject and life.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dir = issuer::directory(&args.data_dir);
    anyhow::ensure!(
        dir.join("private.pem").is_file(),
        "there is no local issuer in {}: `entrepot token` works for a deployment that `entrepot up` \
         has started (name it with --data-dir); elsewhere tokens come from the identity provider",
        args.data_dir.display()
    );
    let subject = match &args.customer {
        Some(customer) => customer.to_string(),
        None => format!("local-{}", args.role),
    };
    let mint = Mint { role: args.role, subject, home_region: args.home_region, ttl: args.ttl };
    let token = issuer::mint(&dir, &mint, SystemClock::new().wall_ms() / 1_000)?;
    if args.json {
        let answer = serde_json::json!({
            "token": token, "role": mint.role.as_str(), "subject": mint.subject,
            "expires_in_s": mint.ttl.as_secs(),
        });
        super::output::line(&answer.to_string());
    } else {
        super::output::line(&token);
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration: a number and s, m, h or d, at most 30d");
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit_s = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(bad()),
    };
    let ttl = Duration::from_secs(number.checked_mul(unit_s).ok_or_else(bad)?);
    if ttl.is_zero() || ttl > TTL_MAX { Err(bad()) } else { Ok(ttl) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        for (text, seconds) in
            [("1h", 3_600), ("90s", 90), ("90", 90), ("15m", 900), ("30d", 2_592_000)]
        {
            assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "h", "0s", "1w", "-1h", "1.5h", "31d", "99999999999999999999s"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_local_deployment_it_refuses() {
        let args = Args {
            role: Role::Staff,
            customer: None,
            home_region: None,
            ttl: Duration::from_mins(1),
            data_dir: "/nonexistent/entrepot".into(),
            json: false,
        };
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("entrepot up"), "{error}");
    }
}
