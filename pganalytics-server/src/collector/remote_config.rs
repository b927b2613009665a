//! The configuration text that the server gives (wire contract, section 5), and what of it a collector obeys: which
//! types are collected, how often, from which databases. Where to connect and with which secret is never the server's
//! to say.

use std::collections::BTreeMap;

use super::sources::KINDS;

/// Intervals that the server may ask for, in seconds.
const INTERVALS: std::ops::RangeInclusive<u64> = 1..=86_400;

/// What the server asks for. What it does not mention stays as it is configured here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RemoteConfig {
    /// The interval of types that have none of their own, in seconds.
    pub interval: Option<u64>,
    pub config_pull_interval: Option<u64>,
    pub sources: BTreeMap<&'static str, RemoteSource>,
    /// The databases of every instance.
    pub databases: Option<Vec<String>>,
    /// The databases of one instance, by its name.
    pub instance_databases: BTreeMap<String, Vec<String>>,
}

/// What the server asks for about a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RemoteSource {
    pub enabled: Option<bool>,
    pub interval: Option<u64>,
}

/// A text, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ParsedConfig {
    pub config: RemoteConfig,
    /// Keys that are obeyed here but whose values are not usable, and keys that the server may not set.
    pub refused: Vec<String>,
}

impl ParsedConfig {
    /// Reads the text. Never fails: what is not understood has no effect.
    pub(super) fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        let mut section = String::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.trim().clone_into(&mut section);
            } else if let Some((key, value)) = line.split_once('=') {
                parsed.set(&section, key.trim(), value.trim());
            }
        }
        parsed
    }

    fn set(&mut self, section: &str, key: &str, value: &str) {
        let config = &mut self.config;
        let taken = match (section, key) {
            ("collector", "interval") => put(&mut config.interval, interval(value)),
            ("collector", "config_pull_interval") => put(&mut config.config_pull_interval, interval(value)),
            ("postgres", "databases") => put(&mut config.databases, Some(list(value))),
            ("collector", "id" | "hostname") | ("backend" | "tls" | "registration", _) => false,
            ("postgres", "host" | "port" | "user" | "password") => false,
            (kind, "enabled" | "interval") if KINDS.contains(&kind) => {
                let kind = KINDS.iter().find(|known| **known == kind).copied().unwrap_or_default();
                let source = config.sources.entry(kind).or_default();
                match key {
                    "enabled" => put(&mut source.enabled, Some(boolean(value))),
                    _ => put(&mut source.interval, interval(value)),
                }
            }
            (section, "databases") if section.starts_with("instance.") => {
                let name = section.trim_start_matches("instance.").to_owned();
                config.instance_databases.insert(name, list(value));
                true
            }
            // Keys of other programs that read the same text.
            _ => true,
        };
        if !taken {
            self.refused.push(format!("{section}.{key}"));
        }
    }
}

/// Sets a value that was understood, and says whether it was.
fn put<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let understood = value.is_some();
    if understood {
        *place = value;
    }
    understood
}

fn interval(value: &str) -> Option<u64> {
    // A comment after a number belongs to the value in this format, and old readers stop at the number's end.
    let digits = value.find(|letter: char| !letter.is_ascii_digit()).map_or(value, |end| &value[..end]);
    digits.parse().ok().filter(|seconds| INTERVALS.contains(seconds))
}

fn boolean(value: &str) -> bool {
    ["true", "yes", "1"].iter().any(|yes| unquoted(value).eq_ignore_ascii_case(yes))
}

/// `[a, b]` or `a, b`; an empty list means all.
fn list(value: &str) -> Vec<String> {
    let inner = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    inner.split(',').map(|item| unquoted(item.trim()).to_owned()).filter(|item| !item.is_empty()).collect()
}

fn unquoted(value: &str) -> &str {
    ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_intervals_and_databases_are_read() {
        let parsed = ParsedConfig::parse(
            "# comment\n[collector]\ninterval = 30\nconfig_pull_interval=120 # trailing\n\
             [postgres]\ndatabases = [shop, \"web site\"]\n[instance.main]\ndatabases = a, b\n\
             ; other\n[pg_log]\nenabled = false\n[pg_stats]\nenabled = YES\ninterval = 15\n",
        );
        let config = parsed.config;
        assert_eq!((config.interval, config.config_pull_interval), (Some(30), Some(120)));
        assert_eq!(config.databases, Some(vec!["shop".into(), "web site".into()]));
        assert_eq!(config.instance_databases["main"], ["a", "b"]);
        assert_eq!(config.sources["pg_log"], RemoteSource { enabled: Some(false), interval: None });
        assert_eq!(config.sources["pg_stats"], RemoteSource { enabled: Some(true), interval: Some(15) });
        assert_eq!(parsed.refused, Vec::<String>::new());
    }

    #[test]
    fn connections_addresses_and_secrets_are_not_the_servers_to_set() {
        let parsed = ParsedConfig::parse(
            "[backend]\nurl = http://evil\n[tls]\nverify = false\n[postgres]\nhost = evil\npassword = x\n\
             [registration]\nsecret = s\n[collector]\nid = other\nhostname = other\n",
        );
        assert_eq!(parsed.config, RemoteConfig::default());
        assert_eq!(
            parsed.refused,
            [
                "backend.url",
                "tls.verify",
                "postgres.host",
                "postgres.password",
                "registration.secret",
                "collector.id",
                "collector.hostname"
            ]
        );
    }

    #[test]
    fn values_out_of_range_have_no_effect_and_are_named() {
        let parsed = ParsedConfig::parse(
            "[pg_stats]\ninterval = 0\n[collector]\ninterval = soon\n[pg_locks]\ninterval=99999",
        );
        assert_eq!(parsed.config.interval, None);
        assert_eq!(parsed.config.sources["pg_stats"].interval, None);
        assert_eq!(parsed.refused, ["pg_stats.interval", "collector.interval", "pg_locks.interval"]);
    }

    #[test]
    fn any_text_is_survived() {
        for text in [
            "",
            "=",
            "[",
            "]",
            "[]\n=\n==",
            "a",
            "[x\n[y]]\nk",
            "\u{0}\n[pg_stats]\nenabled",
            "[pg_stats]\n=1",
        ] {
            assert_eq!(ParsedConfig::parse(text).config, RemoteConfig::default(), "{text:?}");
        }
    }

    #[test]
    fn an_empty_list_of_databases_means_all() {
        assert_eq!(ParsedConfig::parse("[postgres]\ndatabases = []").config.databases, Some(vec![]));
    }
}
