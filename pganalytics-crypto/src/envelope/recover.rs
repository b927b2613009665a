use pganalytics_core::keys::{DataKeyId, DataKeyStore, DataKeyWrapping, KeyManager, KeyName, StoredDataKey};

use crate::envelope::EnvelopeError;
use crate::envelope::key_ring::context;
use crate::recovery::RecoveryIdentity;

/// What came of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The data keys that are wrapped by the new key manager now.
    pub restored: Vec<DataKeyId>,
    /// Those that have no recovery form: what they sealed opens only if their key manager comes back.
    pub without_form: Vec<DataKeyId>,
}

/// Wraps every data key anew, from its recovery form, under a key of a key manager that may be another one than before. For the
/// day when the one before is gone for good.
///
/// # Errors
/// `Recovery` if a form does not open with this identity; otherwise when store or key manager cannot answer. Those that come
/// before in order are wrapped by then, and trying again does no harm.
pub async fn recover(
    store: &dyn DataKeyStore,
    manager: &dyn KeyManager,
    key: &KeyName,
    identity: &RecoveryIdentity,
) -> Result<Recovered, EnvelopeError> {
    let mut recovered = Recovered { restored: Vec::new(), without_form: Vec::new() };
    for StoredDataKey { id, wrapping, .. } in store.list().await? {
        let Some(old) = wrapping else { continue };
        let Some(form) = &old.recovery else {
            recovered.without_form.push(id);
            continue;
        };
        let context = context(&id);
        let data_key = identity
            .unwrap(&context, form)
            .map_err(|source| EnvelopeError::Recovery { id: id.clone(), source: source.into() })?;
        let wrapped = manager
            .wrap(key, &context, &data_key)
            .await
            .map_err(|error| EnvelopeError::from_manager(id.clone(), key.clone(), error))?;
        let new = DataKeyWrapping::new(key.clone(), wrapped).with_recovery(Some(form.clone()));
        if store.rewrap(&id, &old.wrapped, &new).await? {
            recovered.restored.push(id);
        }
    }
    Ok(recovered)
}
