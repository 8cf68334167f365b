//! Sealing and opening with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03). Its nonces are long enough to be random.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::VaultError;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const SALT_BYTES: usize = 16;
/// RFC 9106, section 4, the second recommended option: for where memory is scarce.
const ARGON2_MEMORY_KIB: u32 = 64 * 1024;
const ARGON2_PASSES: u32 = 3;
const ARGON2_LANES: u32 = 4;

/// The key that everything in the vault is sealed with. Wiped when dropped; shows itself to nobody.
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

/// How a key was derived from a passphrase: written down, so that the same can be done again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Derivation {
    salt: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// Sealed bytes as they are kept; both in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    nonce: String,
    text: String,
}

impl MasterKey {
    /// A new random key.
    pub(super) fn generate() -> Result<Self, VaultError> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// A key that something else gave.
    pub(super) fn of(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(bytes)
    }

    /// The key with this text.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    /// The key as text, for its file.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    /// The key that a passphrase stands for. Takes a good part of a second and 64 MiB, so that guessing does too.
    pub(super) fn derive(passphrase: &SecretString, derivation: &Derivation) -> Result<Self, VaultError> {
        let failed = |reason: String| VaultError::Crypto {
            doing: "derive the key from the passphrase",
            reason,
        };
        let salt = URL_SAFE_NO_PAD
            .decode(&derivation.salt)
            .map_err(|error| failed(error.to_string()))?;
        let Derivation {
            memory_kib,
            passes,
            lanes,
            ..
        } = *derivation;
        let params = Params::new(memory_kib, passes, lanes, Some(KEY_BYTES))
            .map_err(|error| failed(error.to_string()))?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.expose_secret().as_bytes(), &salt, key.as_mut_slice())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self(key))
    }

    fn cipher(&self) -> Result<XChaCha20Poly1305, VaultError> {
        XChaCha20Poly1305::new_from_slice(self.0.as_slice()).map_err(|error| VaultError::Crypto {
            doing: "use the vault's key",
            reason: error.to_string(),
        })
    }
}

impl Derivation {
    /// With a new salt and today's costs.
    pub(super) fn new() -> Result<Self, VaultError> {
        let salt: [u8; SALT_BYTES] = random()?;
        Ok(Self {
            salt: URL_SAFE_NO_PAD.encode(salt),
            memory_kib: ARGON2_MEMORY_KIB,
            passes: ARGON2_PASSES,
            lanes: ARGON2_LANES,
        })
    }
}

/// Seals bytes under a name; they open only under the same.
pub(super) fn seal(key: &MasterKey, name: &str, clear: &[u8]) -> Result<Sealed, VaultError> {
    let nonce: [u8; NONCE_BYTES] = random()?;
    let payload = Payload {
        msg: clear,
        aad: name.as_bytes(),
    };
    let text = key.cipher()?.encrypt(&XNonce::from(nonce), payload);
    let text = text.map_err(|error| VaultError::Crypto {
        doing: "seal",
        reason: error.to_string(),
    })?;
    Ok(Sealed {
        nonce: URL_SAFE_NO_PAD.encode(nonce),
        text: URL_SAFE_NO_PAD.encode(text),
    })
}

/// Opens what was sealed under this name; wiped when dropped.
pub(super) fn open(key: &MasterKey, name: &str, sealed: &Sealed) -> Result<Zeroizing<String>, VaultError> {
    let tampered = || VaultError::Tampered {
        name: name.to_owned(),
    };
    let nonce = URL_SAFE_NO_PAD.decode(&sealed.nonce).map_err(|_| tampered())?;
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| tampered())?;
    let text = URL_SAFE_NO_PAD.decode(&sealed.text).map_err(|_| tampered())?;
    let payload = Payload {
        msg: &text,
        aad: name.as_bytes(),
    };
    let clear = key
        .cipher()?
        .decrypt(&XNonce::from(nonce), payload)
        .map_err(|_| tampered())?;
    String::from_utf8(clear).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        tampered()
    })
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], VaultError> {
    let mut bytes = [0; BYTES];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| VaultError::Crypto {
        doing: "get random bytes",
        reason: error.to_string(),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_sealed_opens_only_under_its_name_and_key() {
        let key = MasterKey::generate().unwrap();
        let sealed = seal(&key, "github", b"token").unwrap();
        assert_eq!(*open(&key, "github", &sealed).unwrap(), "token");
        assert!(open(&key, "gitlab", &sealed).is_err());
        assert!(open(&MasterKey::generate().unwrap(), "github", &sealed).is_err());
    }

    #[test]
    fn the_same_text_is_never_sealed_the_same() {
        let key = MasterKey::generate().unwrap();
        assert_ne!(
            seal(&key, "a", b"token").unwrap(),
            seal(&key, "a", b"token").unwrap()
        );
    }

    #[test]
    fn a_key_survives_its_text_form() {
        let key = MasterKey::generate().unwrap();
        let sealed = seal(&key, "a", b"token").unwrap();
        let again = MasterKey::from_text(&key.to_text()).unwrap();
        assert_eq!(*open(&again, "a", &sealed).unwrap(), "token");
        assert!(MasterKey::from_text("c2hvcnQ").is_none());
    }

    #[test]
    fn a_passphrase_gives_the_same_key_again_and_another_does_not() {
        let derivation = Derivation {
            memory_kib: 64,
            ..Derivation::new().unwrap()
        };
        let passphrase = SecretString::from("correct horse");
        let sealed = seal(
            &MasterKey::derive(&passphrase, &derivation).unwrap(),
            "a",
            b"token",
        )
        .unwrap();
        assert!(
            open(
                &MasterKey::derive(&passphrase, &derivation).unwrap(),
                "a",
                &sealed
            )
            .is_ok()
        );
        assert!(
            open(
                &MasterKey::derive(&"battery staple".into(), &derivation).unwrap(),
                "a",
                &sealed
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn any_change_to_the_sealed_bytes_is_found(clear in ".{0,64}", at in any::<proptest::sample::Index>(), bit in 0..8_u8) {
            let key = MasterKey::from_text(&"A".repeat(43)).unwrap();
            let mut sealed = seal(&key, "a", clear.as_bytes()).unwrap();
            let mut text = URL_SAFE_NO_PAD.decode(&sealed.text).unwrap();
            let at = at.index(text.len());
            text[at] ^= 1 << bit;
            sealed.text = URL_SAFE_NO_PAD.encode(text);
            prop_assert!(open(&key, "a", &sealed).is_err());
        }
    }
}
