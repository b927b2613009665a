use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::auth::{Identity, ProviderId};
use crate::random::os_random;
use crate::secret::SecretString;

/// An account of the in-memory providers. Its secrets are kept as they are: for tests and demos alone.
#[derive(Clone, Debug)]
pub struct MemoryAccount {
    pub(super) subject: String,
    pub(super) username: String,
    pub(super) is_enabled: bool,
    pub(super) one_time_code: Option<SecretString>,
    password: Option<SecretString>,
    email: Option<String>,
    full_name: Option<String>,
    groups: BTreeSet<String>,
}

impl MemoryAccount {
    /// An enabled account without a password. The subject is its stable id; names are compared in whatever case.
    pub fn new(subject: impl Into<String>, username: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            username: username.into(),
            is_enabled: true,
            one_time_code: None,
            password: None,
            email: None,
            full_name: None,
            groups: BTreeSet::new(),
        }
    }

    /// Sets the password.
    #[must_use]
    pub fn with_password(self, password: impl Into<String>) -> Self {
        Self { password: Some(SecretString::new(password)), ..self }
    }

    /// Asks for this code after the password. It is always the same, which only tests and demos may do.
    #[must_use]
    pub fn with_one_time_code(self, code: impl Into<String>) -> Self {
        Self { one_time_code: Some(SecretString::new(code)), ..self }
    }

    /// Sets mail address and full name.
    #[must_use]
    pub fn with_contact(self, email: Option<String>, full_name: Option<String>) -> Self {
        Self { email, full_name, ..self }
    }

    /// Sets the groups.
    #[must_use]
    pub fn with_groups(self, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { groups: groups.into_iter().map(Into::into).collect(), ..self }
    }

    /// Disables the account.
    #[must_use]
    pub fn disabled(self) -> Self {
        Self { is_enabled: false, ..self }
    }

    pub(super) fn folded_name(&self) -> String {
        self.username.to_lowercase()
    }

    pub(super) fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    pub(super) fn identity(&self, provider: &ProviderId, methods: &[&str], now: DateTime<Utc>) -> Identity {
        let mut identity = Identity::new(provider.clone(), &self.subject, &self.username, now);
        identity.email = self.email.clone();
        identity.full_name = self.full_name.clone();
        identity.groups = self.groups.clone();
        identity.methods = methods.iter().map(|method| (*method).to_owned()).collect();
        identity
    }
}

/// Compares in a time that depends neither on what is the same nor, where nothing is expected, on that.
pub(super) fn is_same_secret(expected: Option<&SecretString>, given: &str) -> bool {
    let expected = match expected {
        Some(expected) => digest(expected.expose()),
        None => {
            let mut unguessable = [0; 32];
            os_random(&mut unguessable);
            unguessable
        }
    };
    expected.ct_eq(&digest(given)).into()
}

/// By which secrets are looked up: how far a digest matches tells nothing about its text.
pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
