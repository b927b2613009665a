//! tower layers that need nothing but a port.

mod access_audit;
mod access_record;
mod idempotency;
mod request_id;

pub use access_audit::{AccessAuditLayer, AccessAuditService, NotRecorded};
pub use access_record::{AccessFacts, AccessRecord, Recording};
pub use idempotency::{EffectsBegan, IdempotencyLayer, IdempotencyOptions, IdempotencyService};
pub use request_id::{
    REQUEST_ID, REQUEST_ID_MAX_BYTES, RequestId, RequestIdFuture, RequestIdLayer, RequestIdService,
};
