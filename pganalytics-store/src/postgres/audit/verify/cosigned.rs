use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use pganalytics_core::backup::BackupTarget;
use pganalytics_core::tlog::{CheckpointPolicy, SignedCheckpoint, TileReader, VerifiedCheckpoint};
use serde::Serialize;

use super::AuditVerifyError;
use super::era::{EraLog, prefix_of, tiles_fault};
use super::log_fault::LogFault;
use super::trust::AuditTrust;

const PLACE: &str = "cosigned by witnesses";

/// How much of a log its witnesses have cosigned: so much cannot be shown in two ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CosignedPart {
    /// How many leaves.
    pub size: u64,
    /// When the first of these witnesses did, by its own clock.
    pub at: DateTime<Utc>,
    /// Who.
    pub witnesses: Vec<String>,
}

/// What is to be shown of a log: the checkpoint with cosignatures, and whose are demanded.
pub(super) struct Demanded {
    policy: CheckpointPolicy,
    cosigned: Result<Option<SignedCheckpoint>, LogFault>,
}

impl Demanded {
    /// Reads what is cosigned of an era; nothing if no witnesses are demanded. To be done before it is read what is published,
    /// so that a log which goes on meanwhile does not look as if it were cut off.
    pub(super) async fn read(
        target: &Arc<dyn BackupTarget>,
        trust: &AuditTrust,
        era: i16,
    ) -> Result<Option<Self>, AuditVerifyError> {
        let Some(policy) = trust.cosigned_policy(era)? else { return Ok(None) };
        let reader = TileReader::new(Arc::clone(target)).with_prefix(prefix_of(era));
        let cosigned = match reader.cosigned().await {
            Ok(cosigned) => Ok(cosigned),
            Err(error) => Err(tiles_fault(error)?),
        };
        Ok(Some(Self { policy, cosigned }))
    }
}

impl EraLog {
    /// Checks that as many witnesses as are demanded have cosigned this log, and not another history of it.
    pub(super) async fn check_cosigned(
        &mut self,
        trust: &AuditTrust,
        Demanded { policy, cosigned }: Demanded,
        now: DateTime<Utc>,
    ) -> Result<Vec<LogFault>, AuditVerifyError> {
        let mut faults = Vec::new();
        let cosigned = cosigned.unwrap_or_else(|fault| {
            faults.push(fault);
            None
        });
        if let Some(cosigned) = cosigned {
            match cosigned.verify(&policy, trust.ed25519()) {
                Ok(verified) => faults.extend(self.compare(&cosigned, &verified).await?),
                Err(error) => {
                    let size = cosigned.unverified().size().0;
                    faults.push(LogFault::Untrusted { place: PLACE, size, reason: error.to_string() });
                }
            }
        }
        faults.extend(self.late(trust, now));
        Ok(faults)
    }

    /// Whether the log goes on from what was cosigned.
    async fn compare(
        &mut self,
        cosigned: &SignedCheckpoint,
        verified: &VerifiedCheckpoint,
    ) -> Result<Option<LogFault>, AuditVerifyError> {
        let checkpoint = cosigned.unverified();
        let size = checkpoint.size();
        if size.0 > self.size() {
            return Ok(Some(LogFault::CutOff { place: PLACE, before: size.0, now: self.size() }));
        }
        let Some(log) = &mut self.log else { return Ok(None) };
        match log.tree().root_at(size).await {
            Ok(root) if root == *checkpoint.root() => {
                self.cosigned = Some(CosignedPart::of(verified));
                Ok(None)
            }
            Ok(_) => Ok(Some(LogFault::TwoHistories { place: PLACE, size: size.0 })),
            Err(error) => tiles_fault(error).map(Some),
        }
    }

    /// Whether something waits for too long to be cosigned. Of a log that was closed nothing more is; what it was then is in the
    /// log after it.
    fn late(&self, trust: &AuditTrust, now: DateTime<Utc>) -> Option<LogFault> {
        let size = self.cosigned.as_ref().map_or(0, |cosigned| cosigned.size);
        if self.closed.is_some() {
            return None;
        }
        let delay = TimeDelta::from_std(trust.witness_delay()).unwrap_or(TimeDelta::MAX);
        let first = self.seals.iter().find(|seal| seal.first >= size && seal.end() <= self.size())?;
        (first.sealed_at < now - delay).then(|| LogFault::NotCosigned {
            cosigned: size,
            size: self.size(),
            since: first.sealed_at,
        })
    }
}

impl CosignedPart {
    fn of(verified: &VerifiedCheckpoint) -> Self {
        let times = verified.signed().iter().filter_map(|signed| signed.cosigned_at);
        let first = times.min().and_then(|seconds| i64::try_from(seconds).ok());
        Self {
            size: verified.checkpoint().size().0,
            at: first.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).unwrap_or_default(),
            witnesses: verified.witnesses().into_iter().map(ToString::to_string).collect(),
        }
    }
}
