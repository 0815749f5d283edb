//! From the file a user wrote to the one that `entrepot serve` reads: addresses, links and secrets
//! filled in.

use std::path::Path;

use anyhow::Context;
use toml::{Table, Value};

use super::layout::{Layout, Ports, REGIONS_MAX, Service};
use crate::config::Config;
use crate::http::auth::issuer::{AUDIENCE, ISSUER};

/// The user of every local NATS server; each server has a password of its own.
pub(crate) const NATS_USER: &str = "entrepot";

/// Refuses what only makes sense for a region that `up` does not run.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    let file = config.file.display();
    if let Some(region) = config.regions.iter().find(|region| region.server.is_some()) {
        anyhow::bail!(
            "{file} says how to run {} elsewhere (it has addresses). `entrepot up` computes all \
             addresses from --base-port: use a file that only names the regions, like \
             region-config/local.toml",
            region.name
        );
    }
    anyhow::ensure!(
        config.regions.len() <= REGIONS_MAX,
        "{file} has {} regions; `entrepot up` runs at most {REGIONS_MAX} on one machine",
        config.regions.len()
    );
    Ok(())
}

/// The effective configuration as TOML. `source` is the text that `config` was read from.
pub(crate) fn render(
    source: &str,
    config: &Config,
    layout: &Layout,
    ports: Ports,
) -> anyhow::Result<String> {
    let mut document: Table = source.parse().context("it was read before")?;
    document.remove("programs");
    document.insert("load_balancer".into(), table([("listen", local(ports.load_balancer()))]));
    let auth = document.entry("auth").or_insert_with(|| Table::new().into());
    if let Some(auth) = auth.as_table_mut() {
        auth.insert("issuer".into(), ISSUER.into());
        auth.insert("audience".into(), AUDIENCE.into());
        auth.insert("jwks_file".into(), text(&layout.issuer_dir().join("jwks.json"))?);
    }
    let payments = document.entry("payments").or_insert_with(|| Table::new().into());
    if let Some(payments) = payments.as_table_mut() {
        payments
            .insert("url".into(), format!("http://{}", local(ports.payment_simulator())).into());
        payments.insert("webhook_secret_file".into(), text(&layout.webhook_secret())?);
    }
    let regions = (0..config.regions.len())
        .map(|index| region(config, layout, ports, index).map(Value::Table))
        .collect::<anyhow::Result<Vec<_>>>()?;
    document.insert("regions".into(), Value::Array(regions));
    Ok(format!(
        "# Written by `entrepot up` from {}; changes here are lost at its next start.\n\n{document}",
        config.file.display()
    ))
}

fn region(config: &Config, layout: &Layout, ports: Ports, index: usize) -> anyhow::Result<Table> {
    let region = &config.regions[index];
    let database = |role: &str| {
        let address = local(ports.postgres(index));
        Value::from(format!("postgres://{role}@{address}/{}", super::postgres::DATABASE))
    };
    let secret = |what: &str| text(&layout.region_secret(region.name, what));
    let mut entry = Table::new();
    let mut set = |key: &str, value: Value| drop(entry.insert(key.to_owned(), value));
    set("name", region.name.as_str().into());
    set("number", i64::from(region.number.0.get()).into());
    if region.witness {
        set("witness", true.into());
    }
    set("http_listen", local(ports.http(index)).into());
    set("http_url", format!("http://{}", local(ports.http(index))).into());
    set("database_url", database("entrepot_app"));
    set("database_password_file", secret("app")?);
    set("migration_url", database("entrepot_owner"));
    set("migration_password_file", secret("owner")?);
    set("nats_url", format!("nats://{}", local(ports.nats(index))).into());
    set("nats_user", NATS_USER.into());
    set("nats_password_file", secret("nats")?);
    set("marker_file", text(&layout.marker_file(region.name))?);
    let mut peers = Vec::new();
    for (other, peer) in config.regions.iter().enumerate().filter(|(other, _)| *other != index) {
        let link = |service| local(ports.link(index, other, service));
        peers.push(table([
            ("name", peer.name.to_string()),
            ("http_url", format!("http://{}", link(Service::Http))),
            ("nats_url", format!("nats://{}", link(Service::Nats))),
            ("nats_user", NATS_USER.to_owned()),
            ("nats_password_file", path_text(&layout.region_secret(peer.name, "nats"))?),
        ]));
    }
    set("peers", Value::Array(peers));
    Ok(entry)
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn table<const N: usize>(entries: [(&str, String); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
}

fn text(path: &Path) -> anyhow::Result<Value> {
    path_text(path).map(Value::from)
}

pub(crate) fn path_text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| {
        format!("{}: a path that is not UTF-8; choose another --data-dir", path.display())
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::local::secrets;

    const SOURCE: &str = r#"
[deployment]
name = "test"
default_region = "b"
[orders]
group_max = 7
[programs]
haproxy = "haproxy"
[[regions]]
name = "a"
number = 9
[[regions]]
name = "b"
number = 2
[[regions]]
name = "c"
number = 3
"#;

    #[test]
    fn what_is_written_can_be_served_and_peers_are_behind_links() {
        let folder =
            std::env::temp_dir().join(format!("entrepot effective {}", std::process::id()));
        let layout = Layout::new(folder.clone());
        secrets::private_dir(&layout.secrets_dir()).unwrap();
        secrets::private_dir(&layout.issuer_dir()).unwrap();
        std::fs::write(layout.issuer_dir().join("jwks.json"), "{}").unwrap();
        secrets::webhook_secret(&layout.webhook_secret()).unwrap();
        let config = Config::parse(SOURCE, Path::new("some.toml")).unwrap();
        for region in &config.regions {
            for what in ["app", "owner", "nats"] {
                secrets::secret(&layout.region_secret(region.name, what)).unwrap();
            }
        }
        check(&config).unwrap();
        let rendered = render(SOURCE, &config, &layout, Ports::new(9000).unwrap()).unwrap();
        let read = Config::parse(&rendered, &layout.config_file()).unwrap();
        assert!(check(&read).unwrap_err().to_string().contains("--base-port"));
        let region = read.for_region("b".parse().unwrap()).unwrap();
        assert_eq!(region.orders.group_max, 7);
        assert_eq!(region.http_url, "http://127.0.0.1:9022");
        assert_eq!(region.number.0.get(), 2);
        let peers: Vec<_> = region
            .peers
            .iter()
            .map(|peer| (peer.name.as_str(), peer.http_url.as_str(), peer.nats.url.as_str()))
            .collect();
        assert_eq!(
            peers,
            [
                ("a", "http://127.0.0.1:9120", "nats://127.0.0.1:9121"),
                ("c", "http://127.0.0.1:9124", "nats://127.0.0.1:9125"),
            ]
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
