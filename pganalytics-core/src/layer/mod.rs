//! tower layers that need nothing but a port.

mod idempotency;
mod request_id;

pub use idempotency::{EffectsBegan, IdempotencyLayer, IdempotencyOptions, IdempotencyService};
pub use request_id::{
    REQUEST_ID, REQUEST_ID_MAX_BYTES, RequestId, RequestIdFuture, RequestIdLayer, RequestIdService,
};
