//! Starts real services on loopback for the tests of this workspace.
