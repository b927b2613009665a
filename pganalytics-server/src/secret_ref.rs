//! Secrets by reference. A configuration names where a secret is kept and never holds the secret itself, so
//! that it can be printed, merged and stored.

use std::fmt;
use std::path::{Path, PathBuf};

use pganalytics_core::secret::SecretString;
use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Longest secret that is read, in bytes: a wrong path must not pull a log file into memory.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// What is allowed in place of a secret; part of each refusal.
const EXPECTED: &str = "a reference to a secret: { file = \"/path\" } or { env = \"NAME\" }";

/// Where a secret is kept: `{ file = "/path" }` or `{ env = "NAME" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretRef {
    /// A file that holds the secret and nothing else; line ends after it are cut off.
    File(PathBuf),
    /// An environment variable that holds the secret, taken as it is.
    Env(String),
}

/// Why a referenced secret could not be had. Never holds a part of the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretRefError {
    /// The file is missing, may not be read, or is a folder.
    #[error("secret file {} cannot be read", path.display())]
    File {
        /// The file of the reference.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than a secret may be, which is 64 KiB.
    #[error("secret file {} is larger than 64 KiB", path.display())]
    TooLarge {
        /// The file of the reference.
        path: PathBuf,
    },
    /// The variable is not set.
    #[error("environment variable `{name}`, which should hold a secret, is not set")]
    Unset {
        /// The variable of the reference.
        name: String,
    },
    /// The secret is not UTF-8 text.
    #[error("the secret in {place} is not UTF-8 text")]
    NotText {
        /// The file or variable.
        place: String,
    },
    /// The secret has no characters.
    #[error("the secret in {place} is empty")]
    Empty {
        /// The file or variable.
        place: String,
    },
}

impl SecretRef {
    /// Reads the secret. Meant to be called once, at start.
    ///
    /// # Errors
    /// When the file or variable is not there, cannot be read, is empty, too large or not text.
    pub fn read(&self) -> Result<SecretString, SecretRefError> {
        let text = match self {
            Self::File(path) => read_file(path)?,
            Self::Env(name) => read_variable(name)?,
        };
        if text.expose().is_empty() {
            return Err(SecretRefError::Empty { place: self.to_string() });
        }
        Ok(text)
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable `{name}`"),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

/// Reads a reference. What is not one is refused without being repeated: it may be the secret itself, which
/// serde's and figment's own messages would print.
struct ReferenceVisitor;

impl<'de> Visitor<'de> for ReferenceVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
        let mut found = None;
        while let Some(kind) = map.next_key::<String>()? {
            let Place(place) = map.next_value()?;
            let reference = match kind.as_str() {
                "file" => SecretRef::File(place.into()),
                "env" => SecretRef::Env(place),
                other => return Err(de::Error::unknown_field(other, &["file", "env"])),
            };
            if found.replace(reference).is_some() {
                return Err(de::Error::custom("both `file` and `env` are given, a secret has one place"));
            }
        }
        found.ok_or_else(|| de::Error::custom(format_args!("empty, expected {EXPECTED}")))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_char<E: de::Error>(self, _: char) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<SecretRef, E> {
        Err(not_a_reference())
    }
}

/// The path or name inside a reference; refuses other types without printing them.
struct Place(String);

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)
            .map(Self)
            .map_err(|_| de::Error::custom(format_args!("not text, expected {EXPECTED}")))
    }
}

fn not_a_reference<E: de::Error>() -> E {
    E::custom(format_args!("secrets are not written into the configuration, expected {EXPECTED}"))
}

fn read_file(path: &Path) -> Result<SecretString, SecretRefError> {
    use std::io::Read;

    let failed = |source| SecretRefError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(SecretRefError::TooLarge { path: path.to_owned() });
    }
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    bytes.truncate(end);
    String::from_utf8(bytes)
        .map(SecretString::new)
        .map_err(|_| SecretRefError::NotText { place: format!("file {}", path.display()) })
}

fn read_variable(name: &str) -> Result<SecretString, SecretRefError> {
    match std::env::var(name) {
        Ok(text) => Ok(SecretString::new(text)),
        Err(std::env::VarError::NotPresent) => Err(SecretRefError::Unset { name: name.to_owned() }),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(SecretRefError::NotText { place: format!("environment variable `{name}`") })
        }
    }
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format, Toml};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        password: SecretRef,
    }

    fn section(toml: &str) -> Result<SecretRef, Box<figment::Error>> {
        Figment::new()
            .merge(Toml::string(toml))
            .extract::<Section>()
            .map(|section| section.password)
            .map_err(Box::new)
    }

    #[test]
    fn both_forms_are_read_from_toml() {
        assert_eq!(section("password = { file = '/run/p' }").unwrap(), SecretRef::File("/run/p".into()));
        assert_eq!(section("[password]\nenv = 'PW'").unwrap(), SecretRef::Env("PW".into()));
    }

    #[test]
    fn a_secret_in_the_configuration_is_refused_without_being_printed() {
        for toml in [
            "password = 'hunter2'",
            "password = 6502",
            "password = 65.02",
            "password = ['hunter2']",
            "password = { file = 6502 }",
            "password = { env = ['hunter2'] }",
        ] {
            let message = section(toml).unwrap_err().to_string();
            assert!(message.contains("{ file = \"/path\" } or { env = \"NAME\" }"), "{toml}: {message}");
            for secret in ["hunter2", "6502", "65.02"] {
                assert!(!message.contains(secret), "{toml}: {message}");
            }
        }
    }

    #[test]
    fn a_reference_with_no_two_or_unknown_places_is_refused() {
        assert!(section("password = {}").unwrap_err().to_string().contains("expected a reference"));
        assert!(
            section("password = { file = 'a', env = 'b' }").unwrap_err().to_string().contains("both `file`")
        );
        assert!(section("password = { vault = 'a' }").unwrap_err().to_string().contains("`file` or `env`"));
    }

    #[test]
    fn line_ends_after_the_secret_are_cut_off_and_spaces_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, " two words \r\n\n").unwrap();
        assert_eq!(SecretRef::File(path).read().unwrap().expose(), " two words ");
    }

    #[test]
    fn an_unusable_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            SecretRef::File(path)
        };
        assert!(matches!(file("empty", b"\n").read(), Err(SecretRefError::Empty { .. })));
        assert!(matches!(file("large", &[b'a'; 70_000]).read(), Err(SecretRefError::TooLarge { .. })));
        assert!(matches!(file("binary", &[0xff, 0xfe]).read(), Err(SecretRefError::NotText { .. })));
        let missing = SecretRef::File(folder.path().join("missing"));
        assert!(matches!(missing.read(), Err(SecretRefError::File { .. })));
        assert!(matches!(SecretRef::File(folder.path().into()).read(), Err(SecretRefError::File { .. })));
    }

    #[test]
    fn an_unset_variable_is_named() {
        let error = SecretRef::Env("PGA_SURELY_NOT_SET".into()).read().unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable `PGA_SURELY_NOT_SET`, which should hold a secret, is not set"
        );
    }
}
