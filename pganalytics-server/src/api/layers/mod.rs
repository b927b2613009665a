//! The layers of a request that are the server's own, outermost first: meta (address, log, metrics), security headers,
//! panic guard, limits, cross-site protection, per-principal limits; then, for each route, authorisation and the unit of
//! work. Request id and audit, which stands before the panic guard, come from `pganalytics_core::layer`, authentication from
//! `pganalytics_auth::tower`.

pub(super) mod access;
pub(super) mod alert_errors;
pub(super) mod authorise;
pub(super) mod claim;
pub(super) mod cross_site;
pub(super) mod limits;
pub(super) mod meta;
pub(super) mod security_headers;
pub(super) mod work;

pub use access::AccessNotes;
pub(crate) use claim::{KeyClaim, KeyMaker};
pub use limits::{RateLimits, TimeLimit};
pub use meta::{RequestMeta, error_chain};
