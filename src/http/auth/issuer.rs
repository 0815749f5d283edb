//! The issuer of a local deployment: an Ed25519 key in the data directory.
//!
//! Production has an identity provider of its own and never this directory, so `entrepot token` can
//! only make tokens that a local deployment believes.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, JwkSet, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::runtime::secret_bytes;
use crate::types::RegionId;

use super::{Role, Settings};

/// The `iss` of local tokens.
pub const ISSUER: &str = "entrepot-local";
/// The `aud` of tokens for this service.
pub const AUDIENCE: &str = "entrepot";

/// The fixed head of an Ed25519 private key in PKCS #8 (RFC 8410); the 32 secret bytes follow.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The directory of the issuer inside a deployment's data directory.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("issuer")
}

/// What a region of a local deployment believes.
pub fn settings(dir: &Path) -> Settings {
    Settings {
        jwks_file: dir.join("jwks.json"),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
    }
}

/// Makes the key pair, once: an existing one stays, so that tokens live on over restarts.
pub fn create(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let private = dir.join("private.pem");
    if !private.exists() {
        let secret: [u8; 32] = secret_bytes();
        let body = STANDARD.encode([PKCS8_HEAD.as_slice(), &secret].concat());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        replace(&private, pem.as_bytes(), 0o600)?;
    }
    let jwk = public_key(dir)?;
    let set = serde_json::to_vec_pretty(&JwkSet { keys: vec![jwk] })?;
    if std::fs::read(dir.join("jwks.json")).ok().as_ref() != Some(&set) {
        replace(&dir.join("jwks.json"), &set, 0o644)?;
    }
    Ok(())
}

/// Writes beside and renames, so that a reader finds the old file or the new one, whole.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        if fresh.exists() {
            std::fs::remove_file(&fresh)?;
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn private_key(dir: &Path) -> anyhow::Result<EncodingKey> {
    let path = dir.join("private.pem");
    let pem = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    EncodingKey::from_ed_pem(&pem).with_context(|| {
        format!(
            "{} is not an Ed25519 key; delete the file and run `entrepot up` again",
            path.display()
        )
    })
}

fn public_key(dir: &Path) -> anyhow::Result<Jwk> {
    let mut jwk = Jwk::from_encoding_key(&private_key(dir)?, Algorithm::EdDSA)?;
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256)?);
    Ok(jwk)
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Mint {
    /// What its bearer may do.
    pub role: Role,
    /// Who; a customer's id for customers.
    pub subject: String,
    /// Where their orders live.
    pub home_region: Option<RegionId>,
    /// How long it is good.
    pub ttl: Duration,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    home_region: Option<RegionId>,
    iat: u64,
    nbf: u64,
    exp: u64,
}

/// Signs a token.
pub fn mint(dir: &Path, mint: &Mint, now_s: u64) -> anyhow::Result<String> {
    sign(
        dir,
        &Claims {
            iss: ISSUER,
            aud: AUDIENCE,
            sub: &mint.subject,
            role: mint.role.as_str(),
            home_region: mint.home_region,
            iat: now_s,
            nbf: now_s,
            exp: now_s.saturating_add(mint.ttl.as_secs()),
        },
    )
}

/// Signs any claims.
pub(super) fn sign(dir: &Path, claims: &impl Serialize) -> anyhow::Result<String> {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = public_key(dir)?.common.key_id;
    Ok(jsonwebtoken::encode(&header, claims, &private_key(dir)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_is_secret() {
        let dir = crate::http::testing::TestDir::new();
        create(dir.path()).unwrap();
        let first = std::fs::read(dir.path().join("private.pem")).unwrap();
        let mode = std::fs::metadata(dir.path().join("private.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        create(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("private.pem")).unwrap(), first);
        let jwks = std::fs::read_to_string(dir.path().join("jwks.json")).unwrap();
        assert!(jwks.contains("Ed25519") && !jwks.contains("\"d\""), "{jwks}");
    }
}
