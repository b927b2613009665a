use std::borrow::Cow;

use pganalytics_core::audit::PersonalField;

/// As many bytes as nobody can try, from the operating system.
pub(super) type Salt = [u8; 16];

/// A personal value, and what stands for it among what is proved.
#[derive(Clone, Debug)]
pub(super) struct Committed<'e> {
    /// As binary COPY writes it.
    pub(super) value: Cow<'e, [u8]>,
    pub(super) salt: Salt,
    pub(super) commitment: [u8; 32],
}

impl<'e> Committed<'e> {
    /// Commits to a text under a salt of its own.
    pub(super) fn to(field: PersonalField, salt: Salt, text: Cow<'e, [u8]>) -> Self {
        let commitment = field.commitment(&salt, &text);
        Self { value: text, salt, commitment }
    }

    /// Commits to the octets of what is stored as `value`.
    pub(super) fn to_octets(field: PersonalField, salt: Salt, value: Vec<u8>, octets: &[u8]) -> Self {
        Self { value: value.into(), salt, commitment: field.commitment(&salt, octets) }
    }
}
