//! One request, one transaction: its effects, what changed, what is to be sent later and what it was answered.

mod begin;
mod commit;
mod literal;
mod unit;

pub use begin::{Begun, UnitOfWorkLimits};
pub use commit::{CommitError, Reply};
pub(super) use literal::Statements;
pub use unit::UnitOfWork;
