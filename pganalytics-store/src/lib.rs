//! PostgreSQL, backup targets and a private local PostgreSQL, behind the ports of pganalytics-core.

#[cfg(feature = "postgres")]
pub mod postgres;
