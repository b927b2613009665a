//! Audit events in PostgreSQL: written by the sink and by units of work, with a checksum of their writer.

mod commitment;
mod copy_rows;
mod insert;
mod leaf;
mod leaf_reader;
mod mac;
mod privacy;
mod published;
mod recover;
mod row;
mod seal;
mod sink;
mod verify;
mod witness;
mod writer;

pub(super) use insert::insert;
pub use leaf::LeafBytes;
pub use leaf_reader::LeafReader;
pub use mac::ROW_MACS;
pub use privacy::{
    AuditHold, AuditHolds, AuditOrderError, AuditOrderExecutor, OrderExecuted, OrderTrust, StoredOrder,
    StoredOrders,
};
pub use published::{AuditHalt, AuditReadError, AuditStanding, PublishedAuditLog};
pub use recover::{
    AuditGap, AuditRecoverError, AuditRecovered, AuditRecovery, ClosedLog, GapRecord, InvalidGapRecord,
    MissingLeaves,
};
pub use seal::{AuditSealError, AuditSealStatus, AuditSealer, Sealed};
pub use sink::PostgresAuditSink;
pub use verify::{
    AuditProgress, AuditProver, AuditReport, AuditTrust, AuditVerifier, AuditVerifyError, CosignedPart,
    EraReport, ErasureOrders, EventName, EventProving, Finding, LogFault, NoOrders, Notice,
};
pub use witness::{AskedWitness, AuditWitnessError, AuditWitnesses, WitnessStanding, witness_standings};
pub use writer::AuditWriter;
pub(super) use writer::PendingNumbers;
