use pganalytics_core::keys::KeyName;

/// Which keys are read from the environment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnvKeyManagerConfig {
    /// What the names of the variables begin with; `_` follows.
    pub prefix: String,
    /// The keys. Each must have at least one version.
    pub keys: Vec<KeyName>,
}

impl EnvKeyManagerConfig {
    /// These keys, from variables `<PREFIX>_<KEY>_V<n>`.
    pub fn new(prefix: impl Into<String>, keys: impl IntoIterator<Item = KeyName>) -> Self {
        Self { prefix: prefix.into(), keys: keys.into_iter().collect() }
    }
}
