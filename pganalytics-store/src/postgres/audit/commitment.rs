use std::borrow::Cow;

use sha2::{Digest, Sha256};

/// As many bytes as nobody can try, from the operating system.
pub(super) type Salt = [u8; 16];

/// A field of `audit_personal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PersonalField {
    ActorName,
    Address,
    UserAgent,
    Changes,
}

/// A personal value, and what stands for it among what is proved.
#[derive(Clone, Debug)]
pub(super) struct Committed<'e> {
    /// As binary COPY writes it.
    pub(super) value: Cow<'e, [u8]>,
    pub(super) salt: Salt,
    pub(super) commitment: [u8; 32],
}

impl PersonalField {
    /// All of them, in the order of the columns.
    pub(super) const ALL: [Self; 4] = [Self::ActorName, Self::Address, Self::UserAgent, Self::Changes];

    /// The column of `audit_personal`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ActorName => "actor_name",
            Self::Address => "address",
            Self::UserAgent => "user_agent",
            Self::Changes => "changes",
        }
    }

    /// Commits to a text under a salt of its own.
    pub(super) fn commit(self, salt: Salt, text: Cow<'_, [u8]>) -> Committed<'_> {
        let commitment = self.commitment(&salt, &text);
        Committed { value: text, salt, commitment }
    }

    /// Commits to the octets of what is stored as `value`.
    pub(super) fn commit_as(self, salt: Salt, value: Vec<u8>, octets: &[u8]) -> Committed<'static> {
        Committed { value: value.into(), salt, commitment: self.commitment(&salt, octets) }
    }

    /// SHA-256(domain || salt || value). The domain ends in a zero byte and salts have one length, so no two fields or
    /// values make the same input.
    pub(super) fn commitment(self, salt: &[u8], hashed: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.domain()).chain_update(salt).chain_update(hashed).finalize().into()
    }

    fn domain(self) -> &'static [u8] {
        match self {
            Self::ActorName => b"pga.audit.actor_name.1\0",
            Self::Address => b"pga.audit.address.1\0",
            Self::UserAgent => b"pga.audit.user_agent.1\0",
            Self::Changes => b"pga.audit.changes.1\0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commitment_has_its_documented_bytes() {
        let salt: Salt = std::array::from_fn(|place| place as u8);
        let input = [b"pga.audit.actor_name.1\0".as_slice(), &salt, b"ada"].concat();
        let expected: [u8; 32] = Sha256::digest(input).into();
        assert_eq!(PersonalField::ActorName.commitment(&salt, b"ada"), expected);
    }

    #[test]
    fn commitment_hangs_on_salt_and_field() {
        let commit =
            |field: PersonalField, salt: Salt| field.commit(salt, b"ada".as_slice().into()).commitment;
        let one = commit(PersonalField::ActorName, [1; 16]);
        assert_ne!(one, commit(PersonalField::ActorName, [2; 16]));
        assert_ne!(one, commit(PersonalField::UserAgent, [1; 16]));
    }
}
