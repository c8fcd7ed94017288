//! Secrets: what shows that a peer may do something. Never printed, compared without telling by the time how much was right.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::api::Role;

/// 256 random bits that open something.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

/// Text that is no secret. The text itself is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no secret: 64 hexadecimal digits are")]
pub struct NoSecret;

impl Secret {
    /// Takes bytes that came from elsewhere.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a new one, from the system's randomness.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        let system = |error: getrandom::Error| error.raw_os_error().map_or(io::ErrorKind::Unsupported.into(), io::Error::from_raw_os_error);
        getrandom::fill(&mut bytes).map_err(system)?;
        Ok(Self(bytes))
    }

    /// The bytes themselves: to be sent to whom they are meant for, or written to a file that only its owner reads.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes in hexadecimal digits, for a file that only its owner reads.
    pub fn expose_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

/// Takes the same time wherever two secrets differ.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        // The comparison of these hashes is documented as constant-time.
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = NoSecret;

    fn from_str(text: &str) -> Result<Self, NoSecret> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| NoSecret)
    }
}

/// The secrets of a coordinator: one for each role.
#[derive(Clone, Debug)]
pub struct Secrets(Vec<(Role, Secret)>);

impl Secrets {
    /// Keeps these.
    pub fn new(secrets: impl IntoIterator<Item = (Role, Secret)>) -> Self {
        Self(secrets.into_iter().collect())
    }

    /// The role that a secret stands for.
    pub fn role_of(&self, secret: &Secret) -> Option<Role> {
        // All are compared, so that the time does not tell which one was right.
        self.0.iter().fold(None, |found, (role, known)| if known == secret { Some(*role) } else { found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_its_own_role_and_nothing_else() {
        let secrets: Vec<_> = Role::ALL.iter().map(|role| (*role, Secret::random().unwrap())).collect();
        let known = Secrets::new(secrets.clone());
        for (role, secret) in secrets {
            assert_eq!(known.role_of(&secret), Some(role));
            let mut wrong = *secret.expose();
            wrong[31] ^= 1;
            assert_eq!(known.role_of(&Secret::new(wrong)), None);
        }
    }

    #[test]
    fn a_secret_is_read_as_it_is_exposed_and_never_shown() {
        let secret = Secret::random().unwrap();
        assert_eq!(secret.expose_hex().parse(), Ok(secret));
        assert_ne!(Secret::random().unwrap(), secret);
        let shown = format!("{secret:?} {:?}", Secrets::new([(Role::Admin, secret)]));
        assert!(!shown.contains(&secret.expose_hex()[..8]), "{shown}");
        assert_eq!("f00".parse::<Secret>(), Err(NoSecret));
    }
}
