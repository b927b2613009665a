use std::sync::Arc;

use pganalytics_core::backup::{BackupTarget, ObjectPath};
use pganalytics_core::tlog::{NOTE_MAX_BYTES, SignedNote, VerifierKeys};

use super::AuditVerifyError;
use super::era::prefix_of;
use super::log_fault::LogFault;
use super::stored::StoredEra;
use super::trust::AuditTrust;
use crate::postgres::audit::recover::GapRecord;

/// The record of the gap before an era, if it holds: it is signed, closes the log before and is the one in the target.
pub(super) async fn gap_before(
    target: &Arc<dyn BackupTarget>,
    trust: &AuditTrust,
    era: &StoredEra,
    previous: Option<&StoredEra>,
) -> Result<Result<Option<GapRecord>, LogFault>, AuditVerifyError> {
    let fault = |reason: &str| Ok(Err(LogFault::Gap { reason: reason.into() }));
    let (gap, previous) = match (&era.gap, previous) {
        (None, None) => return Ok(Ok(None)),
        (None, Some(_)) => return fault("there is none"),
        (Some(_), None) => return fault("there is no log before it"),
        (Some(gap), Some(previous)) => (gap, previous),
    };
    let record = match believed(gap.as_bytes(), trust, previous.era) {
        Ok(record) => record,
        Err(reason) => return fault(&reason),
    };
    if record.log(&trust.origin(previous.era)).is_none() {
        return fault("it does not close the log before");
    }
    // The record closes the last log that the target had, which the database need not know of.
    match closed(target, era.era - 1).await? {
        Some(closed) if closed == gap.as_bytes() => Ok(Ok(Some(record))),
        Some(_) => fault("the one in the target is another"),
        None => fault("it is gone from the target"),
    }
}

/// Reads a record that the log signed.
pub(in crate::postgres::audit) fn believed(
    bytes: &[u8],
    trust: &AuditTrust,
    era: i16,
) -> Result<GapRecord, String> {
    let note = SignedNote::parse(bytes).map_err(|error| error.to_string())?;
    let keys = VerifierKeys::new(trust.keys_of(era)).map_err(|error| error.to_string())?;
    note.verify(&keys, trust.ed25519()).map_err(|error| error.to_string())?;
    GapRecord::parse(note.unverified_text()).map_err(|error| error.to_string())
}

/// The record that closes an era in the target.
pub(in crate::postgres::audit) async fn closed(
    target: &Arc<dyn BackupTarget>,
    era: i16,
) -> Result<Option<bytes::Bytes>, AuditVerifyError> {
    Ok(target.get(&closed_path(era), Some(0..NOTE_MAX_BYTES as u64 + 1)).await?)
}

/// Where the record lies that closes an era.
pub(in crate::postgres::audit) fn closed_path(era: i16) -> ObjectPath {
    format!("{}/closed", prefix_of(era)).parse().expect("letters and digits are a path")
}
