//! What concerns several tables at once: names, numbers and addresses that must agree or differ.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use toml::Spanned;

use super::Region;
use super::reader::{Report, Section};
use crate::types::RegionId;

/// A value and where it stands in the file.
#[derive(Debug)]
pub(super) struct Located<T> {
    pub(super) offset: usize,
    pub(super) value: T,
}

/// Reads an absolute URL with one of `schemes`, a host, and no password.
pub(super) fn url(
    section: &mut Section<'_>,
    key: &'static str,
    schemes: &[&str],
    report: &Report<'_>,
) -> Option<String> {
    let text = section.text(key)?;
    match refuse_url(text.get_ref(), schemes) {
        Ok(()) => Some(text.into_inner()),
        Err(reason) => {
            report.problem(text.span().start, format!("`{key}`: {reason}"));
            None
        }
    }
}

/// Reads an address to listen on, if it is given.
pub(super) fn listen(
    section: &mut Section<'_>,
    key: &'static str,
    report: &Report<'_>,
) -> Option<Spanned<SocketAddr>> {
    let text = section.text_if_any(key)?;
    if let Ok(address) = text.get_ref().parse() {
        return Some(Spanned::new(text.span(), address));
    }
    let message = format!(
        "`{key}`: `{}` is not an address to listen on; write it like 127.0.0.1:8101",
        text.get_ref()
    );
    report.problem(text.span().start, message);
    None
}

fn refuse_url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let wanted = format!("{}://…", schemes[0]);
    let uri: hyper::Uri =
        text.parse().map_err(|error| format!("`{text}` is not a URL ({error}); write {wanted}"))?;
    let scheme = uri.scheme_str().unwrap_or_default();
    if !schemes.contains(&scheme) {
        return Err(format!("`{text}` must begin with {wanted}"));
    }
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", &authority));
    if host.is_empty() || host.starts_with(':') {
        return Err(format!("`{text}` names no host; write {wanted}"));
    }
    if user.contains(':') {
        // The text is not repeated: it holds a secret.
        return Err("has a password in it; put that into a file and name the file".to_owned());
    }
    Ok(())
}

/// The parts of a file that must fit together.
#[derive(Debug)]
pub(super) struct Whole<'a> {
    pub(super) default_region: Option<&'a Spanned<RegionId>>,
    pub(super) countries: &'a BTreeMap<String, Spanned<RegionId>>,
    pub(super) load_balancer: Option<&'a Spanned<SocketAddr>>,
    pub(super) has_auth: bool,
    pub(super) has_payments: bool,
    /// How many `[[regions]]` there are, readable or not.
    pub(super) regions_given: usize,
    /// The readable ones.
    pub(super) regions: &'a [Located<Region>],
}

impl Whole<'_> {
    /// Reports everything that does not fit.
    pub(super) fn check(&self, report: &Report<'_>) {
        self.check_regions(report);
        self.check_names(report);
        self.check_addresses(report);
        self.check_peers(report);
        for region in self.regions.iter().filter(|region| region.value.server.is_some()) {
            for (there, table) in [(self.has_auth, "[auth]"), (self.has_payments, "[payments]")] {
                if !there {
                    let name = region.value.name;
                    report.problem(region.offset, format!("running {name} needs a table {table}"));
                }
            }
        }
    }

    fn check_regions(&self, report: &Report<'_>) {
        if self.regions_given == 0 {
            report.problem(0, "no [[regions]]: a deployment has at least one");
        }
        if let (2, [_, second]) = (self.regions_given, self.regions) {
            report.problem(
                second.offset,
                "two regions need a third one with `witness = true`, at a third place: with only \
                 two votes neither can go on alone",
            );
        }
        for more in self.regions.iter().filter(|region| region.value.witness).skip(1) {
            let message = format!(
                "{} is a second witness; one is enough, more regions have enough votes of their own",
                more.value.name
            );
            report.problem(more.offset, message);
        }
        for (index, region) in self.regions.iter().enumerate() {
            for earlier in &self.regions[..index] {
                if earlier.value.name == region.value.name {
                    let name = region.value.name;
                    report.problem(region.offset, format!("there is already a region {name}"));
                }
                if earlier.value.number == region.value.number {
                    let message = format!(
                        "{} has the number {} of {}; numbers are in order ids and must differ",
                        region.value.name, region.value.number.0, earlier.value.name
                    );
                    report.problem(region.offset, message);
                }
            }
        }
    }

    fn check_names(&self, report: &Report<'_>) {
        let sellers = self.regions.iter().filter(|region| !region.value.witness);
        let mut known: Vec<_> = sellers.map(|region| region.value.name.as_str()).collect();
        known.dedup();
        let named = self.default_region.into_iter().chain(self.countries.values());
        for name in named.filter(|name| !known.contains(&name.get_ref().as_str())) {
            let is_witness = self.regions.iter().any(|region| region.value.name == *name.get_ref());
            let message = format!(
                "{} {}; regions here: {}",
                if is_witness { "a witness serves nobody:" } else { "there is no region" },
                name.get_ref(),
                known.join(", ")
            );
            report.problem(name.span().start, message);
        }
    }

    fn check_addresses(&self, report: &Report<'_>) {
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        let mut take = |offset: usize, address: String, user: String| {
            if let Some(other) = taken.get(&address) {
                report.problem(offset, format!("{user} and {other} both use {address}"));
            } else {
                taken.insert(address, user);
            }
        };
        if let Some(listen) = self.load_balancer {
            take(listen.span().start, listen.get_ref().to_string(), "the load balancer".into());
        }
        for region in self.regions {
            let name = region.value.name;
            let Some(server) = &region.value.server else { continue };
            take(region.offset, server.http_listen.to_string(), format!("{name}'s `http_listen`"));
            for (url, key) in
                [(&server.database.url, "database_url"), (&server.nats.url, "nats_url")]
            {
                take(region.offset, host_and_port(url), format!("{name}'s `{key}`"));
            }
        }
    }

    fn check_peers(&self, report: &Report<'_>) {
        for region in self.regions {
            let Some(server) = &region.value.server else { continue };
            let name = region.value.name;
            for other in self.regions.iter().map(|other| other.value.name) {
                let count = server.peers.iter().filter(|peer| peer.name == other).count();
                let message = match (other == name, count) {
                    (true, 0) | (false, 1) => continue,
                    (true, _) => format!("{name} is listed as a peer of itself"),
                    (false, 0) => format!("{name} has no [[regions.peers]] for {other}"),
                    (false, _) => format!("{name} has {count} [[regions.peers]] for {other}"),
                };
                report.problem(region.offset, message);
            }
            for peer in &server.peers {
                if !self.regions.iter().any(|other| other.value.name == peer.name) {
                    let message = format!("{name}'s peer {} is not a region here", peer.name);
                    report.problem(region.offset, message);
                }
            }
        }
    }
}

/// `host:port` of a URL that was checked before.
fn host_and_port(url: &str) -> String {
    let uri: hyper::Uri = url.parse().expect("checked when it was read");
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    let default = if uri.scheme_str().is_some_and(|scheme| scheme.starts_with("postgres")) {
        5432
    } else {
        4222
    };
    if uri.port().is_some() { host.to_owned() } else { format!("{host}:{default}") }
}
