use pganalytics_core::keys::KeyName;

/// Why keys could not be taken from the environment. Never holds a value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvKeyManagerError {
    /// The prefix cannot begin the name of a variable.
    #[error("`{prefix}` cannot begin the name of a variable: A-Z, 0-9 and _ are expected, a letter first")]
    InvalidPrefix {
        /// The prefix.
        prefix: String,
    },
    /// Two keys would share their variables.
    #[error("keys `{first}` and `{second}` would both be read from `{variable}`")]
    Ambiguous {
        /// The one.
        first: KeyName,
        /// The other.
        second: KeyName,
        /// Their variable.
        variable: String,
    },
    /// A key has no version.
    #[error("key `{key}` is not in the environment: `{variable}` is not set")]
    Missing {
        /// The key.
        key: KeyName,
        /// The variable of its first version.
        variable: String,
    },
    /// The name of a variable ends in no version.
    #[error(
        "`{variable}` ends in no version: a number from 1 to 4294967295 without leading zeros is expected"
    )]
    InvalidVersion {
        /// The variable.
        variable: String,
    },
    /// The value is no key.
    #[error("`{variable}` is no key: exactly 32 bytes in base64 or hex are expected")]
    InvalidKey {
        /// The variable.
        variable: String,
    },
    /// The key is no random one.
    #[error("`{variable}` holds a weak key: {weakness}")]
    WeakKey {
        /// The variable.
        variable: String,
        /// What shows it.
        weakness: &'static str,
    },
    /// Two versions are the same key.
    #[error("`{variable}` holds the same key as `{other}`")]
    RepeatedKey {
        /// The variable.
        variable: String,
        /// The variable of the earlier version, of this key or of another one.
        other: String,
    },
}
