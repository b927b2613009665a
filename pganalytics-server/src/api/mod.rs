//! The HTTP API: its layers, its routes and its document.

mod client_address;
mod error;
mod extract;
mod handlers;
mod layers;
mod principal;
mod router;
mod routes;
mod sealed_reply;
mod starting;
mod work;

pub use client_address::client_address;
pub use error::{ApiError, ErrorBody, ServerFault};
pub(crate) use extract::refuse_body;
pub use extract::{ApiJson, ApiPath, ApiQuery, PageQuery, Paged};
pub use handlers::{PushMemory, random_password};
pub use layers::{AccessNotes, RateLimits, RequestMeta, TimeLimit, error_chain};
pub use principal::{KnownCollector, SignedInUser};
pub use router::{router, without_double_slash};
pub use routes::{Access, Permission, Replay, RouteInfo, Routes};
pub(crate) use sealed_reply::ReplySealer;
pub(crate) use starting::starting_router;
pub use work::{Work, WorkHandle};
