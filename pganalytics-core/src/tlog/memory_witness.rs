use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::error::BackendError;
use crate::tlog::{
    AddCheckpoint, Checkpoint, CheckpointPolicy, Cosigner, Ed25519Verifier, Origin, Witness, WitnessError,
    WitnessRefusal, WitnessVerdict,
};

const NAME: &str = "memory witness";

/// A [`Witness`] that remembers as long as its process lives: for tests, and for who keeps what it cosigned elsewhere. Clones
/// share what they remember.
#[derive(Clone)]
pub struct MemoryWitness {
    policies: Arc<HashMap<Origin, CheckpointPolicy>>,
    cosigner: Cosigner,
    ed25519: Arc<dyn Ed25519Verifier>,
    last: Arc<Mutex<HashMap<Origin, Checkpoint>>>,
}

impl MemoryWitness {
    /// A witness of the logs of these policies, which has cosigned nothing.
    pub fn new(
        policies: impl IntoIterator<Item = CheckpointPolicy>,
        cosigner: Cosigner,
        ed25519: Arc<dyn Ed25519Verifier>,
    ) -> Self {
        let policies = policies.into_iter().map(|policy| (policy.origin().clone(), policy)).collect();
        Self { policies: Arc::new(policies), cosigner, ed25519, last: Arc::default() }
    }

    /// Remembers a checkpoint that it may cosign.
    fn judge(&self, request: &AddCheckpoint) -> Result<(), WitnessRefusal> {
        let next = request.checkpoint().unverified();
        let policy = self.policies.get(next.origin()).ok_or(WitnessRefusal::UnknownLog)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        request.judge(last.get(next.origin()), policy, &*self.ed25519)?;
        last.insert(next.origin().clone(), next.clone());
        Ok(())
    }
}

impl std::fmt::Debug for MemoryWitness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryWitness").field("last", &self.last).finish_non_exhaustive()
    }
}

#[async_trait]
impl Witness for MemoryWitness {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn add_checkpoint(&self, request: &AddCheckpoint) -> Result<WitnessVerdict, WitnessError> {
        if let Err(refusal) = self.judge(request) {
            return Ok(WitnessVerdict::Refused(refusal));
        }
        let text = request.checkpoint().note().unverified_text();
        let signature = self.cosigner.cosign(text).await.map_err(|error| BackendError::later(NAME, error))?;
        Ok(WitnessVerdict::Cosigned(vec![signature]))
    }
}
