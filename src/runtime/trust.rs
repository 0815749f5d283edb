//! Connections to peers and providers: TLS where an address says `https`, plain where it says `http`.
//!
//! Trusted are the certificate authorities of the machine, as every other program on it trusts them
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others): regions speak with each other under an authority
//! of their own, which no list in this program could know.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore};

/// Opens connections, for a client of `hyper_util`.
pub type Connector = HttpsConnector<HttpConnector>;

/// Whose certificates count.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

/// No certificate would be believed.
#[derive(Debug, thiserror::Error)]
#[error(
    "no certificate authority is known on this machine, so no address with https can be reached: install \
     the package ca-certificates, or name a file of them in SSL_CERT_FILE ({0})"
)]
pub struct NoAuthorities(String);

impl Trust {
    /// Nobody's: for a program that speaks plain HTTP only.
    pub fn nobody() -> Self {
        Self::of(RootCertStore::empty())
    }

    /// Those of the machine.
    pub fn machine() -> Result<Self, NoAuthorities> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _unusable) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(NoAuthorities(errors.join("; ")));
        }
        Ok(Self::of(roots))
    }

    /// Those of the machine if one of the addresses needs any.
    pub fn for_addresses<'a>(
        urls: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, NoAuthorities> {
        let needed = urls.into_iter().any(|url| url.starts_with("https:"));
        if needed { Self::machine() } else { Ok(Self::nobody()) }
    }

    fn of(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }

    /// Opens connections within `timeout`, without the handshake: who sends a request bounds the whole.
    pub fn connector(&self, timeout: Duration) -> Connector {
        let mut plain = HttpConnector::new();
        plain.set_nodelay(true);
        plain.set_connect_timeout(Some(timeout));
        plain.enforce_http(false);
        HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(&self.0))
            .https_or_http()
            .enable_http1()
            .wrap_connector(plain)
    }
}

/// A TLS server in front of a plain one, for tests: its address, and who trusts it.
#[cfg(test)]
pub(crate) async fn tls_front_of(plain: std::net::SocketAddr) -> (String, Trust) {
    use tokio::net::{TcpListener, TcpStream};
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = own.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    drop(super::spawn_named("tls front", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            drop(super::spawn_named("tls connection", async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(plain).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
            }));
        }
    }));
    (url, Trust::of(roots))
}
