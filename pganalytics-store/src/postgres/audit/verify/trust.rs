use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pganalytics_core::tlog::{
    CheckpointPolicy, Ed25519Verifier, InvalidPolicy, NoteKeyKind, NoteKeyName, Origin, VerifierKey,
};

/// How long what is sealed may wait for cosignatures unless said otherwise.
const WITNESS_DELAY: Duration = Duration::from_secs(10 * 60);

/// Whom a verification believes: the log by its name, and the keys that sign it. They have to come to the auditor by another
/// way than the database and the tiles, since who can change those can change the keys beside them, too.
#[derive(Clone)]
pub struct AuditTrust {
    log: Origin,
    keys: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    quorum: usize,
    witness_delay: Duration,
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
        let keys = keys.into_iter().collect();
        Self { log, keys, witnesses: Vec::new(), quorum: 0, witness_delay: WITNESS_DELAY, ed25519 }
    }

    /// Demands that `quorum` witnesses with these keys have cosigned the log, so that whoever holds its own keys cannot show
    /// another history than they have seen.
    #[must_use]
    pub fn with_witnesses(self, keys: impl IntoIterator<Item = VerifierKey>, quorum: usize) -> Self {
        Self { witnesses: keys.into_iter().collect(), quorum, ..self }
    }

    /// How long what is sealed may wait for their cosignatures: ten minutes unless said otherwise.
    #[must_use]
    pub fn with_witness_delay(self, witness_delay: Duration) -> Self {
        Self { witness_delay, ..self }
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

    /// Which cosigned checkpoints of this era are believed; nothing if none are demanded.
    pub(super) fn cosigned_policy(&self, era: i16) -> Result<Option<CheckpointPolicy>, InvalidPolicy> {
        if self.quorum == 0 {
            return Ok(None);
        }
        let policy = self.policy(era)?;
        policy.with_witnesses(self.witnesses.iter().cloned(), self.quorum).map(Some)
    }

    pub(super) fn witness_delay(&self) -> Duration {
        self.witness_delay
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
        f.debug_struct("AuditTrust")
            .field("log", &self.log)
            .field("keys", &self.keys)
            .field("witnesses", &self.witnesses)
            .field("quorum", &self.quorum)
            .finish_non_exhaustive()
    }
}
