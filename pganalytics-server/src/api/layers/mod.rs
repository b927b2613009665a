//! The layers of a request, outermost first: meta (request id, address, log, metrics), security headers, panic guard,
//! limits, authentication, cross-site protection, per-principal limits; then, for each route, authorisation and the unit
//! of work.

pub(super) mod alert_errors;
pub(super) mod authenticate;
pub(super) mod authorise;
pub(super) mod cross_site;
pub(super) mod limits;
pub(super) mod meta;
pub(super) mod security_headers;
pub(super) mod work;

pub use limits::RateLimits;
pub use meta::{RequestMeta, error_chain};
