//! The global load balancer: `HAProxy` with a configuration made from the regions.
//!
//! A request goes to the home region in its token, else to the region of its country (`X-Country`, or
//! `CF-IPCountry` as a content network sets it), else to the default region, which stands for "the
//! nearest" on one machine. A region is up while its `/readyz` answers 200. Where the chosen region is
//! down, the next one in the order of the link latencies answers, and learns from `X-Preferred-Region`
//! for whom. A region that the others have given up serves nobody whatever it answers, and one that is back serves
//! some of its shoppers, always the same ones, before it serves all: [`crate::boot::follow`] writes who into a map.
//!
//! A request that may have reached a region is never sent again by the balancer: only a connection
//! that could not be opened is retried. Clients retry with their idempotency key.
//!
//! What the balancer answers itself, because no region could, is a problem of the API like any other
//! ([`Code`]). `/metrics` is for whoever watches a region at its own address, and
//! `X-Entrepot-Forwarded` is between regions: neither passes here.
//!
//! The token is only read here to choose a region, not checked: a forged claim leads to a region that
//! refuses the token.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::process::Spec;
use crate::config::Config;
use crate::http::X_ENTREPOT_FORWARDED;
use crate::http::problem::Code;
use crate::types::RegionId;

/// Open requests of a region that is going away finish meanwhile.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// `HAProxy` reads at most 64 words a line.
const COUNTRIES_PER_LINE: usize = 40;

/// A checked server is down after two failures 200 ms apart, each of at most 400 ms: 1.2 s at worst
/// for a frozen one, at once for a dead one after two refused connections. It is up again after two.
const TIMES_AND_CHECKS: &str = "    timeout connect 400ms
    timeout check 400ms
    timeout client 75s
    timeout http-request 5s
    timeout http-keep-alive 60s
    timeout queue 2s
    # Longer than the longest wait that a client may prefer (30 s).
    timeout server 40s
    retries 3
    option redispatch 1
    retry-on conn-failure
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 200ms fastinter 200ms downinter 200ms fall 2 rise 2 on-marked-down shutdown-sessions
    option forwardfor
";

/// What the balancer says itself, and of what it can't know: a region that broke off, or is silent, may
/// have done what it was asked for. With the seconds after which a client tries again.
const ANSWERS: [(Code, &str, Option<u32>); 7] = [
    (Code::MalformedRequest, "the load balancer can't read the request; nothing was done", None),
    (Code::NotFound, "there is nothing here", None),
    (Code::RequestTimeout, "the request did not arrive in time; nothing was done", None),
    (
        Code::Internal,
        "the load balancer failed; repeat the request with the same Idempotency-Key",
        None,
    ),
    (
        Code::RegionBrokeOff,
        "the region broke off before it answered; repeat the request with the same Idempotency-Key",
        Some(1),
    ),
    (
        Code::DependencyUnavailable,
        "no region takes the request now; repeat it with the same Idempotency-Key",
        Some(1),
    ),
    (
        Code::RegionTimeout,
        "the region did not answer in time; repeat the request with the same Idempotency-Key",
        Some(1),
    ),
];

/// Where `HAProxy` takes commands, in the folder it runs in: paths of sockets are short.
pub(crate) const SOCKET: &str = "haproxy.sock";
/// Of each region: how many in a hundred of its shoppers it serves, and who serves the others. In the same folder.
pub(crate) const ROUTING_MAP: &str = "routing.map";

/// The value of a region in the map.
pub(crate) fn mapped(share: u8, successor: RegionId) -> String {
    format!("{share}:{successor}")
}

/// The map before anything is known: every region serves all of its shoppers.
pub(crate) fn first_map(config: &Config) -> String {
    let line = |name: RegionId| format!("{name} {}\n", mapped(100, name));
    config.sellers().map(|region| line(region.name)).collect()
}

/// The load balancer of a deployment.
#[derive(Debug, Clone)]
pub(crate) struct LoadBalancer {
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    /// Has the map in it.
    pub(crate) folder: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) port: u16,
}

impl LoadBalancer {
    /// How to run it.
    pub(crate) fn spec(&self) -> Spec {
        Spec {
            name: "load-balancer".to_owned(),
            program: self.program.clone(),
            arguments: vec!["-db".into(), "-f".into(), self.config.clone().into_os_string()],
            environment: Vec::new(),
            run_as: None,
            directory: self.folder.clone(),
            log: self.log.clone(),
            // Finishes open requests, takes no new ones.
            stop_signal: Signal::SIGUSR1,
            stop_grace: STOP_GRACE,
        }
    }

    /// Whether it listens.
    pub(crate) async fn is_ready(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
    }
}

/// `HAProxy`'s configuration for a file whose regions all have addresses.
pub(crate) fn render(config: &Config) -> anyhow::Result<String> {
    let listen = config.load_balancer.ok_or_else(|| {
        anyhow::anyhow!("{}: no [load_balancer] with `listen`", config.file.display())
    })?;
    let mut text = format!(
        "# Made from the regions' configuration (src/boot/local/haproxy.rs).\n\
         global\n    maxconn 4096\n    log stdout format raw daemon notice\n    \
         stats socket unix@{SOCKET} mode 600 level admin\n\n\
         defaults\n    mode http\n    log global\n",
    );
    text.push_str(TIMES_AND_CHECKS);
    for (code, detail, retry_after_s) in ANSWERS {
        answer(&mut text, code, detail, retry_after_s)?;
    }
    write!(text, "\nfrontend entrance\n    bind {listen}\n")?;
    frontend(&mut text, config)?;
    for region in config.sellers() {
        backend(&mut text, config, region.name)?;
    }
    Ok(text)
}

/// One answer of the balancer's own. `lf-string` fills in a trace id; nothing else in the texts is
/// special to it, or to the single quotes around them.
fn answer(
    text: &mut String,
    code: Code,
    detail: &str,
    retry_after_s: Option<u32>,
) -> std::fmt::Result {
    let (name, status) = (code.as_str(), code.status().as_u16());
    let problem = serde_json::json!({
        "type": format!("/docs#{name}"), "title": code.title(), "status": status, "detail": detail,
        "code": name, "trace_id": "%[uuid,regsub(-,,g)]",
    });
    let problem = problem.to_string().replace('\'', r"'\''");
    write!(text, "    http-error status {status} content-type application/problem+json")?;
    write!(text, " lf-string '{problem}'")?;
    if let Some(seconds) = retry_after_s {
        write!(text, " hdr Retry-After {seconds}")?;
    }
    text.push('\n');
    Ok(())
}

fn frontend(text: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(text, "    http-request deny deny_status 404 if {{ path /metrics /routing }}")?;
    writeln!(text, "    http-request del-header {X_ENTREPOT_FORWARDED}")?;
    text.push_str(
        "    http-request set-var(txn.home) http_auth_bearer,jwt_payload_query('$.home_region')\n\
         \x20   http-request set-var(txn.country) req.hdr(CF-IPCountry),upper\n\
         \x20   http-request set-var(txn.country) req.hdr(X-Country),upper if { req.hdr(X-Country) -m found }\n",
    );
    for region in config.sellers() {
        let name = region.name;
        writeln!(
            text,
            "    http-request set-var(txn.region) str({name}) if {{ var(txn.home) -m str {name} }}"
        )?;
    }
    for region in config.sellers() {
        let name = region.name;
        let countries: Vec<_> = config
            .countries
            .iter()
            .filter(|(_, served_by)| **served_by == name)
            .map(|(country, _)| country.as_str())
            .collect();
        for countries in countries.chunks(COUNTRIES_PER_LINE) {
            writeln!(
                text,
                "    http-request set-var(txn.region) str({name}) if !{{ var(txn.region) -m found }} \
                 {{ var(txn.country) -m str {} }}",
                countries.join(" ")
            )?;
        }
    }
    let default = config.default_region;
    writeln!(
        text,
        "    http-request set-var(txn.region) str({default}) if !{{ var(txn.region) -m found }}\n\
         \x20   http-request set-header X-Preferred-Region %[var(txn.region)]\n\
         \x20   # A shopper has the same ticket always; those below the region's share are its own.\n\
         \x20   http-request set-var(txn.shopper) http_auth_bearer,jwt_payload_query('$.sub')\n\
         \x20   http-request set-var(txn.shopper) src if !{{ var(txn.shopper) -m found }}\n\
         \x20   http-request set-var(txn.ticket) var(txn.shopper),xxh32,mod(100)\n\
         \x20   http-request set-var(txn.share) var(txn.region),map_str({ROUTING_MAP}),field(1,:)\n\
         \x20   http-request set-var(txn.region) var(txn.region),map_str({ROUTING_MAP}),field(2,:) \
         if {{ var(txn.ticket),sub(txn.share) ge 0 }}\n\
         \x20   use_backend %[var(txn.region)]\n\
         \x20   default_backend {default}"
    )
}

fn backend(text: &mut String, config: &Config, region: RegionId) -> std::fmt::Result {
    write!(text, "\nbackend {region}\n")?;
    for name in nearest_first(config, region) {
        let Some(server) = config.region(name).and_then(|other| other.server.as_ref()) else {
            continue;
        };
        let backup = if name == region { "" } else { " backup" };
        let address = address(&server.http_url);
        writeln!(text, "    server {name} {address}{backup}")?;
    }
    Ok(())
}

/// Host and port of a URL that was checked when it was read.
fn address(url: &str) -> String {
    let uri: hyper::Uri = url.parse().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(80);
    format!("{}:{port}", uri.host().unwrap_or_default())
}

/// A region, then the others that sell by measured latency; without measurements in the order of the file.
pub(crate) fn nearest_first(config: &Config, region: RegionId) -> Vec<RegionId> {
    let distance = |other: RegionId| {
        let measured = config.link_latencies.iter().find(|link| {
            (link.between, link.and) == (region, other)
                || (link.and, link.between) == (region, other)
        });
        match measured {
            Some(link) => link.round_trip,
            None if other == region => Duration::ZERO,
            None => Duration::MAX,
        }
    };
    let mut names: Vec<_> = config.sellers().map(|region| region.name).collect();
    names.sort_by_key(|name| (*name != region, distance(*name)));
    names
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;
    use crate::boot::local::programs;

    const REGIONS: &str = r#"
[deployment]
name = "test"
default_region = "b"
[countries]
DE = "b"
FR = "b"
US = "a"
[auth]
issuer = "i"
audience = "a"
jwks_file = "Cargo.toml"
[payments]
url = "http://localhost:9090"
[[link_latencies]]
between = "a"
and = "c"
round_trip_us = 10
[[link_latencies]]
between = "b"
and = "a"
round_trip_us = 20
"#;

    fn config() -> Config {
        config_at(9080, [9100, 9101, 9102])
    }

    /// Three regions behind a balancer.
    pub(crate) fn config_at(balancer: u16, ports: [u16; 3]) -> Config {
        let mut text = format!("{REGIONS}[load_balancer]\nlisten = \"127.0.0.1:{balancer}\"\n");
        for (number, name) in ["a", "b", "c"].iter().enumerate() {
            let port = ports[number];
            write!(
                text,
                "[[regions]]\nname = \"{name}\"\nnumber = {}\nhttp_listen = \"127.0.0.1:{port}\"\n\
                 http_url = \"http://127.0.0.1:{port}\"\n\
                 database_url = \"postgres://app@127.0.0.1:912{number}/e\"\n\
                 nats_url = \"nats://127.0.0.1:913{number}\"\n",
                number + 1
            )
            .unwrap();
            for peer in ["a", "b", "c"].iter().filter(|peer| *peer != name) {
                write!(
                    text,
                    "[[regions.peers]]\nname = \"{peer}\"\nhttp_url = \"http://localhost\"\n\
                     nats_url = \"nats://localhost\"\n"
                )
                .unwrap();
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("test.toml");
        Config::parse(&text, &path).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    #[expect(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]
    fn the_configuration_names_every_region_and_the_way_round_a_failure() {
        expect![[r##"
            # Made from the regions' configuration (src/boot/local/haproxy.rs).
            global
                maxconn 4096
                log stdout format raw daemon notice
                stats socket unix@haproxy.sock mode 600 level admin

            defaults
                mode http
                log global
                timeout connect 400ms
                timeout check 400ms
                timeout client 75s
                timeout http-request 5s
                timeout http-keep-alive 60s
                timeout queue 2s
                # Longer than the longest wait that a client may prefer (30 s).
                timeout server 40s
                retries 3
                option redispatch 1
                retry-on conn-failure
                option httpchk GET /readyz
                http-check expect status 200
                default-server check inter 200ms fastinter 200ms downinter 200ms fall 2 rise 2 on-marked-down shutdown-sessions
                option forwardfor
                http-error status 400 content-type application/problem+json lf-string '{"code":"malformed_request","detail":"the load balancer can'\''t read the request; nothing was done","status":400,"title":"The request breaks HTTP","trace_id":"%[uuid,regsub(-,,g)]","type":"/docs#malformed_request"}'
                http-error status 404 content-type application/problem+json lf-string '{"code":"not_found","detail":"there is nothing here","status":404,"title":"Not found","trace_id":"%[uuid,regsub(-,,g)]","type":"/docs#not_found"}'
                http-error status 408 content-type application/problem+json lf-string '{"code":"request_timeout","detail":"the request did not arrive in time; nothing was done","status":408,"title":"The body came too slowly","trace_id":"%[uuid,regsub(-,,g)]","type":"/docs#request_timeout"}'
                http-error status 500 content-type application/problem+json lf-string '{"code":"internal","detail":"the load balancer failed; repeat the request with the same Idempotency-Key","status":500,"title":"Something broke here","trace_id":"%[uuid,regsub(-,,g)]","type":"/docs#internal"}'
                http-error status 502 content-type application/problem+json lf-string '{"code":"region_broke_off","detail":"the region broke off before it answered; repeat the request with the same Idempotency-Key","status":502,"title":"The region broke off","trace_id":"%[uuid,regsub(-,,g)]","type":"/docs#region_broke_off"}' hdr Retry-After 1
                http-error status 503 content-type application/problem+json lf-string '{"code":"dependency_unavailable","detail":"no region takes the request now; repeat it with the same Idempotency-Key","status":503,"title":"A dependency does not answer","trace_id":"%[uuid,regsub(-,,g)]","type":"/docs#dependency_unavailable"}' hdr Retry-After 1
                http-error status 504 content-type application/problem+json lf-string '{"code":"region_timeout","detail":"the region did not answer in time; repeat the request with the same Idempotency-Key","status":504,"title":"The region did not answer in time","trace_id":"%[uuid,regsub(-,,g)]","type":"/docs#region_timeout"}' hdr Retry-After 1

            frontend entrance
                bind 127.0.0.1:9080
                http-request deny deny_status 404 if { path /metrics /routing }
                http-request del-header x-entrepot-forwarded
                http-request set-var(txn.home) http_auth_bearer,jwt_payload_query('$.home_region')
                http-request set-var(txn.country) req.hdr(CF-IPCountry),upper
                http-request set-var(txn.country) req.hdr(X-Country),upper if { req.hdr(X-Country) -m found }
                http-request set-var(txn.region) str(a) if { var(txn.home) -m str a }
                http-request set-var(txn.region) str(b) if { var(txn.home) -m str b }
                http-request set-var(txn.region) str(c) if { var(txn.home) -m str c }
                http-request set-var(txn.region) str(a) if !{ var(txn.region) -m found } { var(txn.country) -m str US }
                http-request set-var(txn.region) str(b) if !{ var(txn.region) -m found } { var(txn.country) -m str DE FR }
                http-request set-var(txn.region) str(b) if !{ var(txn.region) -m found }
                http-request set-header X-Preferred-Region %[var(txn.region)]
                # A shopper has the same ticket always; those below the region's share are its own.
                http-request set-var(txn.shopper) http_auth_bearer,jwt_payload_query('$.sub')
                http-request set-var(txn.shopper) src if !{ var(txn.shopper) -m found }
                http-request set-var(txn.ticket) var(txn.shopper),xxh32,mod(100)
                http-request set-var(txn.share) var(txn.region),map_str(routing.map),field(1,:)
                http-request set-var(txn.region) var(txn.region),map_str(routing.map),field(2,:) if { var(txn.ticket),sub(txn.share) ge 0 }
                use_backend %[var(txn.region)]
                default_backend b

            backend a
                server a 127.0.0.1:9100
                server c 127.0.0.1:9102 backup
                server b 127.0.0.1:9101 backup

            backend b
                server b 127.0.0.1:9101
                server a 127.0.0.1:9100 backup
                server c 127.0.0.1:9102 backup

            backend c
                server c 127.0.0.1:9102
                server a 127.0.0.1:9100 backup
                server b 127.0.0.1:9101 backup
        "##]].assert_eq(&render(&config()).unwrap());
    }

    /// Both are configured with what is in the repository, so the two must agree. After a change of
    /// this module, write what the failure shows into the file.
    #[test]
    fn the_file_for_containers_is_made_from_their_configuration() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join("region-config/compose.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("/etc/entrepot/jwks.json", "compose.toml");
        let config = Config::parse(&text, &path).unwrap_or_else(|error| panic!("{error}"));
        expect_test::expect_file![root.join("docker/haproxy.cfg")]
            .assert_eq(&render(&config).unwrap());
        expect_test::expect_file![root.join("docker").join(ROUTING_MAP)]
            .assert_eq(&first_map(&config));
        // The balancer and its follower meet at one socket; what was followed is not kept where a restart forgets it.
        let compose = std::fs::read_to_string(root.join("docker-compose.regions.yml")).unwrap();
        for part in [
            format!("./docker/{ROUTING_MAP}:/run/balancer/{ROUTING_MAP}:ro"),
            "working_dir: /run/balancer\n".to_owned(),
            format!("\"--follow\", \"/run/balancer/{SOCKET}\", \"--state\", \"/var/lib/routing/"),
            "- routing:/var/lib/routing\n".to_owned(),
        ] {
            assert!(compose.contains(&part), "{part}");
        }
    }

    #[test]
    fn haproxy_accepts_it() {
        let Some(program) = programs::in_path("haproxy") else { return };
        let folder = std::env::temp_dir().join(format!("entrepot balancer {}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, render(&config()).unwrap()).unwrap();
        std::fs::write(folder.join(ROUTING_MAP), first_map(&config())).unwrap();
        let mut check = std::process::Command::new(program);
        let check = check.current_dir(&folder).arg("-c").arg("-f").arg(&file).output().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(check.status.success() && !said.contains("WARNING"), "{said}");
    }
}
