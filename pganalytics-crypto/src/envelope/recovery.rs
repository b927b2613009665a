use std::error::Error;
use std::fmt::Debug;

use bytes::Bytes;
use pganalytics_core::keys::{DataKey, KeyContext};

/// To whom each data key is wrapped besides, so that it can be recovered when the key service is gone for good.
pub trait KeyRecovery: Debug + Send + Sync + 'static {
    /// Wraps a data key for this context.
    ///
    /// # Errors
    /// When this context cannot be wrapped.
    fn wrap(&self, context: &KeyContext, key: &DataKey) -> Result<Bytes, Box<dyn Error + Send + Sync>>;
}

#[cfg(feature = "recovery")]
impl KeyRecovery for crate::recovery::RecoveryRecipient {
    fn wrap(&self, context: &KeyContext, key: &DataKey) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        Ok(Self::wrap(self, context, key)?)
    }
}
