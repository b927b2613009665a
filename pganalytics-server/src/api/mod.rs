//! The HTTP API: its layers, its routes and its document.

mod error;

pub use error::{ApiError, ErrorBody, ServerFault};
