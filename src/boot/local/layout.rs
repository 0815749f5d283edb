//! Where a local deployment keeps its files and which ports it takes.
//!
//! Everything follows from the data directory and one base port, so that two deployments on one
//! machine differ in two arguments, and a reader of `status` can compute any address.

use std::path::{Path, PathBuf};

use crate::types::RegionId;

/// Regions of one machine; the port scheme has room for ten.
pub(crate) const REGIONS_MAX: usize = 10;
const REGIONS_MAX_PORTS: u16 = 10;
/// The distance between the base port and the highest port in use, with some room.
pub(crate) const PORTS_SPAN: u16 = 320;

/// A service of a region that other regions reach over the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    /// Forwarded requests.
    Http,
    /// Replication.
    Nats,
}

/// The paths of a deployment.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data_dir: PathBuf,
}

impl Layout {
    /// `data_dir` must be absolute: children run elsewhere.
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        debug_assert!(data_dir.is_absolute(), "{}", data_dir.display());
        Self { data_dir }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Held, locked, by the supervisor; has its pid in it.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.data_dir.join("supervisor.pid")
    }

    /// What the supervisor started; how a later one finds what a killed one left running.
    pub(crate) fn children_file(&self) -> PathBuf {
        self.data_dir.join("children.json")
    }

    /// There once the first start has done what is done once.
    pub(crate) fn welcome_file(&self) -> PathBuf {
        self.data_dir.join("welcomed")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.data_dir.join("control.sock")
    }

    /// The effective configuration.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.data_dir.join("region-config.toml")
    }

    pub(crate) fn issuer_dir(&self) -> PathBuf {
        self.data_dir.join("issuer")
    }

    pub(crate) fn secrets_dir(&self) -> PathBuf {
        self.data_dir.join("secrets")
    }

    pub(crate) fn webhook_secret(&self) -> PathBuf {
        self.secrets_dir().join("payment-webhook")
    }

    pub(crate) fn region_secret(&self, region: RegionId, what: &str) -> PathBuf {
        self.secrets_dir().join(format!("{region}.{what}"))
    }

    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.data_dir.join("logs")
    }

    /// The log of one program: `us-east.postgres`, `load-balancer`.
    pub(crate) fn log_file(&self, program: &str) -> PathBuf {
        self.logs_dir().join(format!("{program}.log"))
    }

    pub(crate) fn region_dir(&self, region: RegionId) -> PathBuf {
        self.data_dir.join("regions").join(region.as_str())
    }

    pub(crate) fn postgres_dir(&self, region: RegionId) -> PathBuf {
        self.region_dir(region).join("postgres")
    }

    pub(crate) fn nats_dir(&self, region: RegionId) -> PathBuf {
        self.region_dir(region).join("nats")
    }

    /// How far a region's database was when its server last looked.
    pub(crate) fn marker_file(&self, region: RegionId) -> PathBuf {
        self.region_dir(region).join("marker.json")
    }

    /// How far a region's clock is ahead; there only where clocks can be set.
    pub(crate) fn clock_file(&self, region: RegionId) -> PathBuf {
        self.region_dir(region).join("clock")
    }

    pub(crate) fn simulator_dir(&self) -> PathBuf {
        self.data_dir.join("payment-simulator")
    }

    /// Who serves whose shoppers, as the load balancer was told last.
    pub(crate) fn routing_state(&self) -> PathBuf {
        self.data_dir.join("routing.json")
    }

    pub(crate) fn haproxy_config(&self) -> PathBuf {
        self.data_dir.join("haproxy.cfg")
    }
}

/// The ports of a deployment: `base` for the load balancer, the rest at fixed distances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    base: u16,
}

impl Ports {
    /// Refuses a base port that leaves no room above it.
    pub(crate) fn new(base: u16) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1024..=u16::MAX - PORTS_SPAN).contains(&base),
            "--base-port {base}: must be 1024 to {}",
            u16::MAX - PORTS_SPAN
        );
        Ok(Self { base })
    }

    pub(crate) fn load_balancer(self) -> u16 {
        self.base
    }

    pub(crate) fn payment_simulator(self) -> u16 {
        self.base + 10
    }

    pub(crate) fn http(self, region: usize) -> u16 {
        self.base + 21 + small(region)
    }

    pub(crate) fn postgres(self, region: usize) -> u16 {
        self.base + 41 + small(region)
    }

    pub(crate) fn nats(self, region: usize) -> u16 {
        self.base + 51 + small(region)
    }

    /// Where `from` finds `service` of `to`: an end of the link between the two.
    pub(crate) fn link(self, from: usize, to: usize, service: Service) -> u16 {
        let pair = small(from) * REGIONS_MAX_PORTS + small(to);
        let service = match service {
            Service::Http => 0,
            Service::Nats => 1,
        };
        self.base + 100 + pair * 2 + service
    }
}

fn small(index: usize) -> u16 {
    assert!(index < REGIONS_MAX, "checked when the configuration was read");
    u16::try_from(index).expect("below ten")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_used_twice_and_all_are_within_the_span() {
        let ports = Ports::new(8080).unwrap();
        let mut all = vec![ports.load_balancer(), ports.payment_simulator()];
        for region in 0..REGIONS_MAX {
            all.extend([ports.http(region), ports.postgres(region), ports.nats(region)]);
            for other in (0..REGIONS_MAX).filter(|other| *other != region) {
                all.push(ports.link(region, other, Service::Http));
                all.push(ports.link(region, other, Service::Nats));
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|port| *port < 8080 + PORTS_SPAN));
        assert_eq!((ports.http(0), ports.postgres(2), ports.nats(1)), (8101, 8123, 8132));
        assert!(Ports::new(80).is_err() && Ports::new(65_500).is_err());
    }
}
