use std::sync::Arc;

use pganalytics_core::keys::{KeyManager, KeyName};

use crate::recovery::{RecoveryIdentity, RecoveryRecipient};

/// Who can read what an [`EncryptedBackupTarget`](super::EncryptedBackupTarget) writes, and with what it reads.
#[derive(Clone, Debug)]
pub struct BackupEncryption {
    pub(super) manager: Option<(Arc<dyn KeyManager>, KeyName)>,
    pub(super) recipients: Vec<RecoveryRecipient>,
    pub(super) identity: Option<RecoveryIdentity>,
}

impl BackupEncryption {
    /// Objects are encrypted to a key of a key manager.
    pub fn new(manager: Arc<dyn KeyManager>, key: KeyName) -> Self {
        Self { manager: Some((manager, key)), recipients: Vec::new(), identity: None }
    }

    /// Objects are encrypted to a recovery key and read with it alone: for the day when the key manager is gone.
    pub fn recovering(identity: RecoveryIdentity) -> Self {
        Self { manager: None, recipients: vec![identity.to_recipient()], identity: Some(identity) }
    }

    /// Encrypts to a recovery key, too.
    #[must_use]
    pub fn with_recipient(mut self, recipient: RecoveryRecipient) -> Self {
        self.recipients.push(recipient);
        self
    }
}
