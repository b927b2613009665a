use std::fmt;
use std::sync::Arc;

use pganalytics_core::audit::order::{Order, OrderError};
use pganalytics_core::tlog::{Ed25519Verifier, Origin, SignedNote, VerifierKeys};

/// Whose orders are obeyed: those for the log of this name that one of these keys signed. No server has the private halves.
#[derive(Clone)]
pub struct OrderTrust {
    log: Origin,
    keys: VerifierKeys,
    ed25519: Arc<dyn Ed25519Verifier>,
}

impl OrderTrust {
    /// Obeys these keys, for the log of this name without an era.
    pub fn new(log: Origin, keys: VerifierKeys, ed25519: Arc<dyn Ed25519Verifier>) -> Self {
        Self { log, keys, ed25519 }
    }

    /// Reads a signed order.
    ///
    /// # Errors
    /// When it is none, is for another log, or none of the keys signed it.
    pub fn open(&self, note: &[u8]) -> Result<Order, OrderError> {
        let note = SignedNote::parse(note).map_err(OrderError::Note)?;
        Order::open(&note, &self.log, &self.keys, &*self.ed25519)
    }
}

impl fmt::Debug for OrderTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderTrust").field("log", &self.log).field("keys", &self.keys).finish_non_exhaustive()
    }
}
