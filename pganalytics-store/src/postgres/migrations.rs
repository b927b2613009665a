use sha2::{Digest, Sha256};

/// One step of the schema, as the files in `migrations/` hold it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// The files' names without their endings, `001_users`.
    pub(super) name: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    /// What the server's role may do with what `up` made. Granted again after each run, since that role may
    /// be created later than the tables.
    pub(super) grants: &'static str,
}

macro_rules! migrations {
    ($($name:literal),* $(,)?) => {
        &[$(Migration {
            name: $name,
            up: include_str!(concat!("../../migrations/", $name, ".up.sql")),
            down: include_str!(concat!("../../migrations/", $name, ".down.sql")),
            grants: include_str!(concat!("../../migrations/", $name, ".grants.sql")),
        }),*]
    };
}

/// All migrations in their order. A test compares the list with the folder.
pub(super) static MIGRATIONS: &[Migration] = migrations![
    "001_users",
    "002_collectors",
    "003_metrics",
    "004_tokens_and_alerts",
    "005_sessions",
    "006_encryption",
    "007_audit_logging"
];

/// Creates the roles that rights are granted to, where that is allowed.
pub(super) static ROLES: &str = include_str!("../../migrations/roles.sql");

impl Migration {
    pub(super) fn version(&self) -> i32 {
        self.name.split('_').next().and_then(|digits| digits.parse().ok()).expect("a test parses every name")
    }

    /// The oldest program that works with a schema which this migration was applied to.
    pub(super) fn min_app_version(&self) -> &'static str {
        let header = "-- min_app_version:";
        self.up
            .lines()
            .find_map(|line| line.strip_prefix(header))
            .map(str::trim)
            .expect("a test reads every header")
    }

    /// SHA-256 of the text that was applied, in hexadecimal digits.
    pub(super) fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.up))
    }
}

/// A digest of all migrations: equal for two programs that make the same schema. Names a template database.
pub fn fingerprint() -> String {
    let mut digest = Sha256::new();
    digest.update(ROLES);
    for migration in MIGRATIONS {
        for text in [migration.name, migration.up, migration.down, migration.grants] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
    }
    hex::encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::postgres::migrate::Version;

    #[test]
    fn list_and_folder_agree() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["roles.sql", "README.md"].contains(&name.as_str()))
            .collect();
        let listed: BTreeSet<String> = MIGRATIONS
            .iter()
            .flat_map(|migration| {
                ["up", "down", "grants"].map(|kind| format!("{}.{kind}.sql", migration.name))
            })
            .collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn versions_ascend_and_headers_can_be_read() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(Migration::version).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        for migration in MIGRATIONS {
            assert!(migration.min_app_version().parse::<Version>().is_ok(), "{}", migration.name);
        }
    }

    #[test]
    fn this_program_is_new_enough_for_its_own_schema() {
        for migration in MIGRATIONS {
            assert!(migration.min_app_version().parse::<Version>().unwrap() <= Version::of_this_program());
        }
    }

    #[test]
    fn fingerprint_is_stable_and_hexadecimal() {
        assert_eq!(fingerprint(), fingerprint());
        assert_eq!(fingerprint().len(), 64);
    }
}
