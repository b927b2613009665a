use std::fmt;
use std::sync::Arc;

use pganalytics_core::tlog::{
    CheckpointPolicy, Ed25519Verifier, InvalidPolicy, NoteKeyKind, NoteKeyName, Origin, VerifierKey,
};

/// Whom a verification believes: the log by its name, and the keys that sign it. They have to come to the auditor by another
/// way than the database and the tiles, since who can change those can change the keys beside them, too.
#[derive(Clone)]
pub struct AuditTrust {
    log: Origin,
    keys: Vec<VerifierKey>,
    ed25519: Arc<dyn Ed25519Verifier>,
}

impl AuditTrust {
    /// Believes the log of this name, whatever its era, when one of these keys signed it. A key counts by its bytes: it may be
    /// named like the log or like the log of an era.
    pub fn new(
        log: Origin,
        keys: impl IntoIterator<Item = VerifierKey>,
        ed25519: Arc<dyn Ed25519Verifier>,
    ) -> Self {
        Self { log, keys: keys.into_iter().collect(), ed25519 }
    }

    /// The name of the log without an era.
    pub fn log(&self) -> &Origin {
        &self.log
    }

    /// What an era's log is called: the name of the log, a slash and the number.
    pub fn origin(&self, era: i16) -> Origin {
        format!("{}/{era}", self.log).parse().expect("a line with a number at its end is a line")
    }

    pub(in crate::postgres::audit) fn ed25519(&self) -> &dyn Ed25519Verifier {
        &*self.ed25519
    }

    /// Which checkpoints of this era are believed.
    pub(in crate::postgres::audit) fn policy(&self, era: i16) -> Result<CheckpointPolicy, InvalidPolicy> {
        let origin = self.origin(era);
        CheckpointPolicy::new(origin, self.keys_of(era))
    }

    /// The keys under their own names, that of the log, and that of its era.
    pub(in crate::postgres::audit) fn keys_of(&self, era: i16) -> Vec<VerifierKey> {
        let names: Vec<NoteKeyName> = [self.log.as_str(), self.origin(era).as_str()]
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        let mut keys = Vec::new();
        for key in self.keys.iter().filter(|key| key.kind() == NoteKeyKind::Ed25519) {
            let renamed =
                names.iter().map(|name| VerifierKey::new(name.clone(), key.kind(), *key.public_key()));
            keys.extend(std::iter::once(key.clone()).chain(renamed));
        }
        keys
    }
}

impl fmt::Debug for AuditTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditTrust").field("log", &self.log).field("keys", &self.keys).finish_non_exhaustive()
    }
}
