//! Every message a configuration can be refused with, word for word, and the files that ship.
#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]

use std::path::Path;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::{Config, NatsLogin};

fn refused(text: &str, expected: &Expect) {
    let error = Config::parse(text, Path::new("test.toml")).unwrap_err();
    expected.assert_eq(&format!("{error}\n"));
}

/// A deployment of three regions whose addresses are left to `entrepot up`.
const THREE: &str = r#"
[deployment]
name = "test"
default_region = "a"
[[regions]]
name = "a"
number = 1
[[regions]]
name = "b"
number = 2
[[regions]]
name = "c"
number = 3
"#;

#[test]
fn a_short_file_gets_the_defaults() {
    let config = Config::parse(THREE, Path::new("test.toml")).unwrap();
    assert_eq!(config.regions.len(), 3);
    assert_eq!(config.limits.request_body_bytes_max, 256 * 1024);
    assert_eq!(config.orders.group_max, 256);
    assert_eq!(config.replication.heartbeat, Duration::from_millis(200));
    assert_eq!(config.escrow.grant_wait, Duration::from_secs(5));
    let error = config.for_region("b".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("entrepot up"), "{error}");
    let error = config.for_region("x".parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "test.toml has no region x; it has a, b, c");
}

#[test]
fn everything_wrong_is_told_at_once() {
    refused(
        r#"
[deployment]
name = "test"
default_region = "mars"
colour = "red"

[countries]
de = "a"
FR = "venus"

[limits]
connections_max = "many"
body_timeout_ms = 0

[orders]
group_size = 1

[replication]
heartbeat_ms = 900

[[regions]]
name = "a"
number = 1

[[regions]]
name = "a"
number = 1

[[regions]]
name = "C"
number = 256

[[regions]]
name = "d"

[region]
name = "e"
"#,
        &expect![[r#"
            test.toml:4: there is no region mars; regions here: a
            test.toml:5: [deployment]: unknown key `colour`; known here: default_region, name
            test.toml:8: [countries]: `de` is not an ISO 3166 code of two capital letters
            test.toml:9: there is no region venus; regions here: a
            test.toml:12: [limits]: `connections_max` must be a whole number, not string
            test.toml:13: [limits]: `body_timeout_ms` must be 100 to 120000
            test.toml:16: [orders]: unknown key `group_size`; known here: group_max, group_writers, order_wait_ms, queue_max, saga_lease_ms, saga_stuck_ms, sagas_running_max
            test.toml:18: [replication]: `peer_silent_after_ms` must be at least twice `heartbeat_ms`, or one late heartbeat counts as a dead peer
            test.toml:25: a has the number 1 of a; numbers are in order ids and must differ
            test.toml:25: there is already a region a
            test.toml:30: [[regions]]: `name`: `C` is not a region's name: 1 to 15 of a-z, 0-9 and -, beginning with a letter
            test.toml:31: [[regions]]: `number` must be 1 to 255
            test.toml:33: [[regions]]: `number` is missing
            test.toml:36: the file: unknown key `region`; known here: auth, countries, deployment, escrow, limits, link_latencies, load_balancer, orders, payments, programs, reconciliation, regions, replication, routing
        "#]],
    );
}

#[test]
fn two_regions_need_a_witness() {
    refused(
        r#"
[deployment]
name = "test"
default_region = "a"
[[regions]]
name = "a"
number = 1
[[regions]]
name = "b"
number = 2
"#,
        &expect![[r#"
            test.toml:8: two regions need a third one with `witness = true`, at a third place: with only two votes neither can go on alone
        "#]],
    );
}

#[test]
fn there_is_one_witness_and_it_serves_nobody() {
    refused(
        r#"
[deployment]
name = "test"
default_region = "w"
[[regions]]
name = "a"
number = 1
witness = "no"
[[regions]]
name = "w"
number = 2
witness = true
[[regions]]
name = "v"
number = 3
witness = true
"#,
        &expect![[r#"
            test.toml:4: a witness serves nobody: w; regions here: a
            test.toml:8: [[regions]]: `witness` must be true or false, not string
            test.toml:13: v is a second witness; one is enough, more regions have enough votes of their own
        "#]],
    );
}

#[test]
fn a_region_that_runs_needs_all_of_it() {
    refused(
        r#"
[deployment]
name = "test"
default_region = "a"
[auth]
issuer = "entrepot"
audience = "entrepot"
jwks_file = "/nowhere/jwks.json"
[load_balancer]
listen = "127.0.0.1:8101"
[[regions]]
name = "a"
number = 1
http_listen = "127.0.0.1:8101"
http_url = "127.0.0.1:8101"
database_url = "postgres://app:hunter2@localhost/entrepot"
nats_url = "nats://localhost"
nats_user = "a"
nats_credentials_file = "/nowhere/a.creds"
[[regions]]
name = "b"
number = 2
http_listen = "localhost"
database_url = "mysql://localhost"
[[regions]]
name = "c"
number = 3
http_listen = "127.0.0.1:8101"
http_url = "http://localhost:8101"
database_url = "postgres://app@localhost/entrepot"
database_password_file = "/nowhere/password"
nats_url = "nats://localhost:4222"
nats_password_file = "/nowhere/password"
[[regions.peers]]
name = "c"
http_url = "http://localhost:8101"
nats_url = "nats://localhost"
[[regions.peers]]
name = "d"
http_url = "http://localhost:8101"
nats_url = "nats://"
"#,
        &expect![[r#"
            test.toml:8: `jwks_file`: cannot read /nowhere/jwks.json (No such file or directory (os error 2)); create it, or name another file
            test.toml:11: [[regions]]: give `nats_user` or `nats_credentials_file`, not both
            test.toml:15: `http_url`: `127.0.0.1:8101` must begin with http://…
            test.toml:16: `database_url`: has a password in it; put that into a file and name the file
            test.toml:19: `nats_credentials_file`: cannot read /nowhere/a.creds (No such file or directory (os error 2)); create it, or name another file
            test.toml:20: [[regions]]: `http_url` is missing
            test.toml:20: [[regions]]: `nats_url` is missing
            test.toml:23: `http_listen`: `localhost` is not an address to listen on; write it like 127.0.0.1:8101
            test.toml:24: `database_url`: `mysql://localhost` must begin with postgres://…
            test.toml:25: [[regions]]: `nats_password_file` needs `nats_user`
            test.toml:25: c has no [[regions.peers]] for a
            test.toml:25: c has no [[regions.peers]] for b
            test.toml:25: c is listed as a peer of itself
            test.toml:25: c's `http_listen` and the load balancer both use 127.0.0.1:8101
            test.toml:25: running c needs a table [payments]
            test.toml:31: `database_password_file`: cannot read /nowhere/password (No such file or directory (os error 2)); create it, or name another file
            test.toml:33: `nats_password_file`: cannot read /nowhere/password (No such file or directory (os error 2)); create it, or name another file
            test.toml:41: `nats_url`: `nats://` is not a URL (empty string); write nats://…
        "#]],
    );
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    refused(
        "[deployment]\nname = \"a\nx =\n",
        &expect![[r#"
        test.toml:2: invalid basic string, expected `"`
        test.toml:3: string values must be quoted, expected literal string
    "#]],
    );
    refused(
        "deployment = 3\nregions = 4\n",
        &expect![[r#"
        test.toml:1: [deployment]: `default_region` is missing
        test.toml:1: [deployment]: `name` is missing
        test.toml:1: no [[regions]]: a deployment has at least one
        test.toml:1: the file: `deployment` must be a table, not integer
        test.toml:2: the file: `regions` must be a list of tables ([[regions]]), not integer
    "#]],
    );
    let missing = Config::load(Path::new("/nowhere/entrepot.toml")).unwrap_err();
    expect!["/nowhere/entrepot.toml:1: cannot read this file: No such file or directory (os error 2); name one with --config FILE"].assert_eq(&missing.to_string());
}

#[test]
fn the_local_file_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("region-config/local.toml");
    let config = Config::load(&path).unwrap();
    let names: Vec<_> =
        config.regions.iter().map(|region| (region.name.as_str(), region.number.0.get())).collect();
    assert_eq!(names, [("us-east", 1), ("eu-west", 2), ("ap-south", 3)]);
}

/// Production's secrets are not in the repository, so the paths are pointed at a file that exists.
#[test]
fn the_production_files_are_good_and_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("region-config");
    let mut seen = Vec::new();
    for name in ["us-east", "eu-west", "ap-south"] {
        let path = folder.join(format!("production-{name}.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let secrets = text
            .lines()
            .map(|line| match line.split_once("_file = ") {
                Some((key, _)) => format!("{key}_file = \"production-{name}.toml\"\n"),
                None => format!("{line}\n"),
            })
            .collect::<String>();
        let config = Config::parse(&secrets, &path).unwrap_or_else(|error| panic!("{error}"));
        let region = config.for_region(name.parse().unwrap()).unwrap();
        assert_eq!(region.peers.len(), 2);
        assert!(matches!(region.nats.login, NatsLogin::Credentials(_)));
        let shown = format!("{region:?}");
        assert!(!shown.contains(secrets.lines().next().unwrap()), "a secret in {shown}");
        seen.push((region.regions, region.countries, region.default_region, region.auth.issuer));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
}
