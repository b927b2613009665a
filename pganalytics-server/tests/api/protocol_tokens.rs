//! Registration, tokens and the pull of the configuration, as collectors in the field do them.
