//! What is collected and how often: the configuration of this node, and over it what the server asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::CollectorConfig;
use super::pass::Wanted;
use super::remote_config::RemoteConfig;
use super::sources::{KINDS, Pace, pace_of};

/// What is collected and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Enabled types with their intervals.
    pub intervals: BTreeMap<&'static str, Duration>,
    /// Databases by instance, where the server says which.
    databases: BTreeMap<String, Vec<String>>,
    pub config_pull: Duration,
}

impl Plan {
    /// Lays the server's wishes over the node's own configuration.
    pub(super) fn new(config: &CollectorConfig, remote: &RemoteConfig) -> Self {
        let mut intervals = BTreeMap::new();
        for kind in KINDS {
            let local = config.sources.get(kind).cloned().unwrap_or_default();
            let wish = remote.sources.get(kind).copied().unwrap_or_default();
            if !wish.enabled.or(local.enabled).unwrap_or(true) {
                continue;
            }
            let common = match pace_of(kind) {
                Pace::Fast => remote.interval.unwrap_or(config.schedule.interval_seconds),
                Pace::Slow => config.schedule.slow_interval_seconds,
            };
            let seconds = wish.interval.or(local.interval_seconds).unwrap_or(common);
            intervals.insert(kind, Duration::from_secs(seconds));
        }
        let databases = config
            .instances
            .iter()
            .filter_map(|instance| {
                let names = remote.instance_databases.get(&instance.name).or(remote.databases.as_ref())?;
                Some((instance.name.clone(), names.clone()))
            })
            .collect();
        let pull = remote.config_pull_interval.unwrap_or(config.schedule.config_pull_seconds);
        Self { intervals, databases, config_pull: Duration::from_secs(pull) }
    }

    /// A collection of some of the types.
    pub(super) fn wanted(&self, kinds: impl IntoIterator<Item = &'static str>) -> Wanted {
        Wanted { kinds: kinds.into_iter().collect(), databases: self.databases.clone() }
    }

    /// A collection of all enabled types.
    pub(super) fn everything(&self) -> Wanted {
        self.wanted(self.intervals.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{InstanceSection, SourceSection};
    use super::super::remote_config::ParsedConfig;
    use super::*;

    fn plan(config: &CollectorConfig, remote: &str) -> Plan {
        Plan::new(config, &ParsedConfig::parse(remote).config)
    }

    #[test]
    fn catalogs_are_read_less_often_than_statistics() {
        let plan = plan(&CollectorConfig::default(), "");
        assert_eq!(plan.intervals.len(), KINDS.len());
        assert_eq!(plan.intervals["pg_stats"], Duration::from_secs(60));
        for kind in ["pg_schema", "pg_extensions", "pg_settings"] {
            assert_eq!(plan.intervals[kind], Duration::from_secs(300));
        }
    }

    #[test]
    fn the_server_overrides_types_and_intervals_and_what_it_does_not_mention_stays() {
        let mut config = CollectorConfig::default();
        let source = SourceSection { enabled: Some(false), interval_seconds: Some(20) };
        config.sources.insert("pg_locks".into(), source);
        let local = plan(&config, "");
        assert!(!local.intervals.contains_key("pg_locks"));
        let remote = plan(
            &config,
            "[collector]\ninterval = 30\n[pg_locks]\nenabled = true\n[pg_stats]\ninterval = 5\n[pg_bloat]\nenabled = false",
        );
        assert_eq!(remote.intervals["pg_locks"], Duration::from_secs(20));
        assert_eq!(remote.intervals["pg_stats"], Duration::from_secs(5));
        assert_eq!(remote.intervals["pg_cache"], Duration::from_secs(30));
        assert_eq!(remote.intervals["pg_schema"], Duration::from_secs(300));
        assert!(!remote.intervals.contains_key("pg_bloat"));
    }

    #[test]
    fn databases_are_set_for_one_instance_or_for_all() {
        let instances =
            vec![InstanceSection::new("a", "postgres://h/d"), InstanceSection::new("b", "postgres://h/d")];
        let config = CollectorConfig { instances, ..CollectorConfig::default() };
        let wanted = plan(&config, "[postgres]\ndatabases = x\n[instance.b]\ndatabases = y, z").everything();
        assert_eq!(wanted.databases["a"], ["x"]);
        assert_eq!(wanted.databases["b"], ["y", "z"]);
        assert!(plan(&config, "").everything().databases.is_empty());
    }
}
