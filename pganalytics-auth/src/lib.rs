//! Local passwords, tokens and sign-in providers for services on PostgreSQL.
