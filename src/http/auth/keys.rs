//! The issuer's public keys: a JWKS file, read again when it changes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey};

/// The shortest RSA modulus, in bytes: 2048 bits, below which a signature proves little.
const RSA_MODULUS_BYTES_MIN: usize = 256;

/// The most keys in a set: two would do for a rotation.
const KEYS_MAX: usize = 32;

/// One public key, fixed to its one algorithm: the token's header never chooses.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) public: DecodingKey,
}

/// Not `derive`d: what a key is made of is nobody's business in a log.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Why a key set can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadKeys {
    /// The file can't be read.
    #[error("the key set {path} can't be read: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It isn't a key set, or holds a key that must not be used.
    #[error("the key set {path} can't be used: {reason}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why, and what would be right.
        reason: String,
    },
}

/// The keys of a file, and which state of the file they are.
#[derive(Debug)]
pub(super) struct KeySet {
    path: PathBuf,
    stamp: Stamp,
    keys: Vec<Key>,
}

/// What changes when a file is written or replaced.
type Stamp = Option<(SystemTime, u64)>;

impl KeySet {
    /// Reads the file.
    pub(super) fn load(path: &Path) -> Result<Self, BadKeys> {
        // The stamp first: a write in between is then seen as one more change.
        let stamp = stamp(path);
        let unusable = |reason| BadKeys::Unusable { path: path.to_owned(), reason };
        let bytes = std::fs::read(path)
            .map_err(|source| BadKeys::Unreadable { path: path.to_owned(), source })?;
        let set: JwkSet = serde_json::from_slice(&bytes)
            .map_err(|error| unusable(format!("it is not a JWK set: {error}")))?;
        if set.keys.is_empty() || set.keys.len() > KEYS_MAX {
            return Err(unusable(format!("it has {} keys, not 1 to {KEYS_MAX}", set.keys.len())));
        }
        let keys = set.keys.iter().map(key).collect::<Result<_, _>>().map_err(unusable)?;
        Ok(Self { path: path.to_owned(), stamp, keys })
    }

    /// The set anew, if the file has changed since.
    pub(super) fn changed(&self) -> Option<Result<Self, BadKeys>> {
        (stamp(&self.path) != self.stamp).then(|| Self::load(&self.path))
    }

    /// Marks the present state of the file as seen, so that a broken one is reported once.
    pub(super) fn mark_seen(&mut self) {
        self.stamp = stamp(&self.path);
    }

    /// The key a token names; the only one there is for a token that names none.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, self.keys.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not listed is refused, also in future")]
fn key(jwk: &Jwk) -> Result<Key, String> {
    let id = jwk.common.key_id.clone();
    let name = id.as_deref().unwrap_or("without an id");
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::RSA(rsa) => {
            let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).map_err(|error| error.to_string())?;
            if modulus.len() < RSA_MODULUS_BYTES_MIN {
                return Err(format!("key {name} is an RSA key of less than 2048 bits"));
            }
            Algorithm::RS256
        }
        _ => return Err(format!("key {name} is neither an Ed25519 nor an RSA public key")),
    };
    let public = DecodingKey::from_jwk(jwk).map_err(|error| format!("key {name}: {error}"))?;
    Ok(Key { id, algorithm, public })
}
