use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::{Error as FigmentError, Kind};
use figment::providers::{Env, Format, Serialized, Toml};

use super::ServerConfig;

/// What the names of environment variables begin with: `PGA__HTTP__LISTEN` sets `http.listen`.
pub const ENV_PREFIX: &str = "PGA__";

/// Why a configuration cannot be used. Each problem names where it was set, the key and what is allowed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file that was asked for is not there.
    #[error("configuration file {} does not exist", path.display())]
    MissingFile {
        /// Its path.
        path: PathBuf,
    },
    /// Some settings are wrong.
    #[error("the configuration is wrong:\n{}", problems.join("\n"))]
    Invalid {
        /// One line for each.
        problems: Vec<String>,
    },
}

/// Reads the configuration: defaults, then the file if there is one, then the environment.
///
/// # Errors
/// The file is missing, or a setting is unknown, of the wrong type or out of its range.
pub fn load(file: Option<&Path>) -> Result<ServerConfig, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(ServerConfig::default()));
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::MissingFile { path: path.into() });
        }
        figment = without_replaced(figment, &Figment::from(Toml::file(path)));
        figment = figment.merge(Toml::file(path));
    }
    let env = Env::prefixed(ENV_PREFIX).split("__").global();
    figment = without_replaced(figment, &Figment::from(env.clone()));
    figment.merge(env).extract().map_err(|error| ConfigError::Invalid {
        problems: error.into_iter().map(|error| format!("  {}", describe(&error))).collect(),
    })
}

/// Settings that are one or the other.
const ALTERNATIVES: [&str; 2] = ["keys", "keys.login"];

const SECRET_REFERENCES: [&str; 8] = [
    "database.url",
    "database.direct_url",
    "database.owner_url",
    "redis.password",
    "collectors.registration_secret",
    "collectors.legacy_token_secret",
    "keys.login.token",
    "keys.login.secret_id",
];

/// What the layer replaces whole. A secret reference: merging `{ file = … }` over the default `{ env = … }` would give two
/// places. A section of another type: the settings of the one are none of the other.
fn without_replaced(base: Figment, layer: &Figment) -> Figment {
    let type_of = |figment: &Figment, key: &str| figment.extract_inner::<String>(&format!("{key}.type")).ok();
    let mut replaced: Vec<&'static str> = ALTERNATIVES.to_vec();
    replaced.retain(|key| type_of(layer, key).is_some_and(|new| type_of(&base, key) != Some(new)));
    replaced.extend(SECRET_REFERENCES.iter().filter(|key| layer.contains(key)));
    replaced.into_iter().fold(base, |base, key| Figment::new().merge(Removed { base, key }))
}

struct Removed {
    base: Figment,
    key: &'static str,
}

impl figment::Provider for Removed {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named("defaults")
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, FigmentError> {
        let mut map = self.base.data()?;
        for dict in map.values_mut() {
            remove(dict, self.key);
        }
        Ok(map)
    }
}

fn remove(dict: &mut figment::value::Dict, key: &str) {
    match key.split_once('.') {
        None => {
            dict.remove(key);
        }
        Some((section, rest)) => {
            if let Some(figment::value::Value::Dict(_, inner)) = dict.get_mut(section) {
                remove(inner, rest);
            }
        }
    }
}

fn describe(error: &FigmentError) -> String {
    let place = match error.metadata.as_ref() {
        None => "configuration".into(),
        Some(metadata) => match &metadata.source {
            Some(source) => source.to_string(),
            None => metadata.name.to_string(),
        },
    };
    let what = match &error.kind {
        Kind::UnknownField(_, expected) => {
            format!("there is no such setting; here are {}", expected.join(", "))
        }
        other => other.to_string(),
    };
    let key = if error.path.is_empty() { String::new() } else { format!("`{}`: ", error.path.join(".")) };
    format!("{place}: {key}{what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuditSinkConfig, KeyManagerConfig};
    use crate::secret_ref::SecretRef;

    fn load_text(text: &str) -> Result<ServerConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path))
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(load_text("").unwrap().http.listen.port(), 8080);
    }

    #[test]
    fn a_wrong_setting_names_file_key_and_what_is_allowed() {
        for (text, expected) in [
            ("[http]\nlisten = 5", ["server.toml", "`http.listen`", "5"]),
            ("[http]\nlissten = ''", ["server.toml", "`http.lissten`", "listen"]),
            (
                "[database]\nmax_connections = 0",
                ["server.toml", "`database.max_connections`", "from 1 to 1000"],
            ),
            ("[log]\nformat = 'xml'", ["server.toml", "`log.format`", "`human` or `json`"]),
            (
                "[database]\nurl = 'postgres://u:p@h/d'",
                ["server.toml", "`database.url`", "{ env = \"NAME\" }"],
            ),
        ] {
            let message = load_text(text).unwrap_err().to_string();
            for part in expected {
                assert!(message.contains(part), "{text}: {message}");
            }
        }
    }

    #[test]
    fn a_reference_in_the_file_replaces_the_default_one() {
        let config = load_text("[database]\nurl = { file = '/run/url' }").unwrap();
        assert_eq!(config.database.url, SecretRef::File("/run/url".into()));
    }

    #[test]
    fn key_manager_of_another_type_replaces_the_default_one() {
        let vault = "[keys]\ntype = 'vault'\naddress = 'https://vault:8200'\nlogin = { type = 'kubernetes', role = 'r' }";
        assert!(matches!(load_text(vault).unwrap().keys, KeyManagerConfig::Vault(_)));
        assert!(matches!(load_text("[keys]\ntype = 'env'").unwrap().keys, KeyManagerConfig::Env(_)));
        let KeyManagerConfig::File(file) = load_text("[keys]\npath = '/keys'").unwrap().keys else {
            panic!()
        };
        assert_eq!(file.path, Path::new("/keys"), "the type may be left out");
    }

    #[test]
    fn sinks_of_the_audit_log_are_a_list_of_forms() {
        let sinks = "[[audit.sinks]]\ntype = 'stdout'\n\
             [[audit.sinks]]\ntype = 'file'\npath = '/log/audit.jsonl'\nrequired = true\n\
             [[audit.sinks]]\ntype = 'syslog'\nserver = 'logs.example.org:6514'\nname = 'soc'";
        let config = load_text(sinks).unwrap().audit;
        let [AuditSinkConfig::Stdout(_), AuditSinkConfig::File(file), AuditSinkConfig::Syslog(syslog)] =
            config.sinks.as_slice()
        else {
            panic!("{:?}", config.sinks)
        };
        assert_eq!((file.name.as_str(), file.required, file.keep.get()), ("file", true, 30));
        assert_eq!((syslog.name.as_str(), syslog.server.port, syslog.tls), ("soc", 6514, true));
        for wrong in ["type = 'stdout'\npath = '/x'", "type = 'file'", "type = 'mail'"] {
            let message = load_text(&format!("[[audit.sinks]]\n{wrong}")).unwrap_err().to_string();
            assert!(message.contains("audit.sinks"), "{wrong}: {message}");
        }
        let message = load_text("[audit]\nfail_closed = ['writes']").unwrap_err().to_string();
        assert!(message.contains("`changes`"), "{message}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Some(Path::new("/surely/not/there.toml"))).unwrap_err();
        assert_eq!(error.to_string(), "configuration file /surely/not/there.toml does not exist");
    }
}
