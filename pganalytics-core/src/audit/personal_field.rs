use sha2::{Digest, Sha256};

/// What of an event is about a person, and can be erased: the event only commits to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PersonalField {
    /// The actor's name.
    ActorName,
    /// The address of the client.
    Address,
    /// The program of the client.
    UserAgent,
    /// What was changed, as JSON.
    Changes,
}

impl PersonalField {
    /// All of them, in the order of the columns.
    pub const ALL: [Self; 4] = [Self::ActorName, Self::Address, Self::UserAgent, Self::Changes];

    /// The column of `audit_personal`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ActorName => "actor_name",
            Self::Address => "address",
            Self::UserAgent => "user_agent",
            Self::Changes => "changes",
        }
    }

    /// The field of a column.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// SHA-256(domain || salt || value): the value is the UTF-8 text, or the 4 or 16 bytes of an address. The domain ends in a
    /// zero byte and salts have one length, so no two fields or values make the same input.
    pub fn commitment(self, salt: &[u8], value: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.domain()).chain_update(salt).chain_update(value).finalize().into()
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
        let salt: [u8; 16] = std::array::from_fn(|place| place as u8);
        let input = [b"pga.audit.actor_name.1\0".as_slice(), &salt, b"ada"].concat();
        let expected: [u8; 32] = Sha256::digest(input).into();
        assert_eq!(PersonalField::ActorName.commitment(&salt, b"ada"), expected);
    }

    #[test]
    fn commitment_hangs_on_salt_and_field() {
        let one = PersonalField::ActorName.commitment(&[1; 16], b"ada");
        assert_ne!(one, PersonalField::ActorName.commitment(&[2; 16], b"ada"));
        assert_ne!(one, PersonalField::UserAgent.commitment(&[1; 16], b"ada"));
    }

    #[test]
    fn fields_are_found_by_their_names() {
        for field in PersonalField::ALL {
            assert_eq!(PersonalField::of_name(field.name()), Some(field));
        }
        assert_eq!(PersonalField::of_name("id"), None);
    }
}
