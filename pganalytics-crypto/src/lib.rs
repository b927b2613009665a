//! Signing and key management for services on PostgreSQL.
