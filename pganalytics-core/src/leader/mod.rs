//! One holder at a time.

mod memory;
mod port;
mod task;

pub use memory::MemoryLeader;
pub use port::{Fence, Leader, LeaderError, Lease, ROLE_MAX_BYTES, check_role};
pub use task::LeaderTask;
