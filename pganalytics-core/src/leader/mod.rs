//! One holder at a time.

mod port;

pub use port::{Fence, Leader, LeaderError, Lease};
