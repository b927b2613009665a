use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::keys::{DataKeyVersion, FieldRef, KeyName};

use crate::blind_index::IndexRule;
use crate::envelope::KeyRecovery;

const FIFTEEN_MINUTES: Duration = Duration::from_secs(15 * 60);
const ONE_MINUTE: Duration = Duration::from_secs(60);

/// How values are sealed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnvelopeConfig {
    /// The name of the key-encryption key under which data keys are wrapped.
    pub key: KeyName,
    /// For what there are data keys, by name.
    pub purposes: BTreeMap<String, PurposeConfig>,
    /// How the blind indexes of columns are made; of those not named here, exactly.
    pub indexes: BTreeMap<(String, String), IndexRule>,
    /// How long an unwrapped data key may lie in memory. 15 minutes unless set.
    pub unwrapped_for: Duration,
    /// How often the store is read again, so that keys which other servers added or retired are known. A minute unless set.
    pub reread_every: Duration,
    /// To whom each data key is wrapped besides.
    pub recovery: Option<Arc<dyn KeyRecovery>>,
}

/// What is known of a purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PurposeConfig {
    /// Data keys below this version neither seal nor open, so that whoever writes the store cannot bring an old one back.
    pub minimum: DataKeyVersion,
    /// The same for the keys of its blind indexes; `None` where the purpose has none.
    pub index_minimum: Option<DataKeyVersion>,
}

impl Default for PurposeConfig {
    fn default() -> Self {
        Self { minimum: DataKeyVersion::FIRST, index_minimum: None }
    }
}

impl PurposeConfig {
    /// Pins the lowest version of its data keys that may be used.
    #[must_use]
    pub fn from_version(self, minimum: DataKeyVersion) -> Self {
        Self { minimum, ..self }
    }

    /// With blind indexes, whose keys are those of the purpose `<name>.index` and may be used from this version on.
    #[must_use]
    pub fn indexed_from_version(self, minimum: DataKeyVersion) -> Self {
        Self { index_minimum: Some(minimum), ..self }
    }
}

impl EnvelopeConfig {
    /// No purposes yet.
    pub fn new(key: KeyName) -> Self {
        Self {
            key,
            purposes: BTreeMap::new(),
            indexes: BTreeMap::new(),
            unwrapped_for: FIFTEEN_MINUTES,
            reread_every: ONE_MINUTE,
            recovery: None,
        }
    }

    /// Declares a purpose without blind indexes, all of whose data keys may be used.
    #[must_use]
    pub fn sealing(self, purpose: impl Into<String>) -> Self {
        self.with_purpose(purpose, PurposeConfig::default())
    }

    /// Declares a purpose with blind indexes, all of whose data keys may be used.
    #[must_use]
    pub fn indexing(self, purpose: impl Into<String>) -> Self {
        self.with_purpose(purpose, PurposeConfig::default().indexed_from_version(DataKeyVersion::FIRST))
    }

    /// Declares a purpose.
    #[must_use]
    pub fn with_purpose(mut self, purpose: impl Into<String>, config: PurposeConfig) -> Self {
        self.purposes.insert(purpose.into(), config);
        self
    }

    /// Declares how the blind index of a column is made.
    #[must_use]
    pub fn with_index(mut self, field: &FieldRef, rule: IndexRule) -> Self {
        self.indexes.insert((field.table.to_owned(), field.column.to_owned()), rule);
        self
    }

    /// Limits how long an unwrapped data key lies in memory.
    #[must_use]
    pub fn keeping_unwrapped_for(self, unwrapped_for: Duration) -> Self {
        Self { unwrapped_for, ..self }
    }

    /// Wraps each data key to this recipient, too.
    #[must_use]
    pub fn recoverable_by(self, recovery: Arc<dyn KeyRecovery>) -> Self {
        Self { recovery: Some(recovery), ..self }
    }
}
