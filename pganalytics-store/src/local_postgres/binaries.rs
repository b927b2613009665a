use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::LocalPostgresError;

const OLDEST_MAJOR: u32 = 13;
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// The server's programs of one version.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) postgres: PathBuf,
    pub(super) initdb: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The first installed version in the order of the search; of `major` when it is given.
    ///
    /// `Ok(None)` when there are versions, but not the wanted one.
    pub(super) fn find(
        folders: Option<&[PathBuf]>,
        major: Option<u32>,
    ) -> Result<Option<Self>, LocalPostgresError> {
        let searched = match folders {
            Some(folders) => folders.to_vec(),
            None => usual_folders(),
        };
        let mut found_any = false;
        for binaries in searched.iter().filter_map(|folder| Self::in_folder(folder)) {
            found_any = true;
            if major.is_none_or(|wanted| wanted == binaries.major) {
                return Ok(Some(binaries));
            }
        }
        if found_any {
            return Ok(None);
        }
        let searched = match folders {
            Some(folders) => {
                let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
                format!("searched: {}", names.join(", "))
            }
            None => format!("searched: {DEBIAN_ROOT}/*/bin, PATH, `pg_config --bindir`"),
        };
        Err(LocalPostgresError::NotInstalled { searched })
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let (postgres, initdb) = (folder.join("postgres"), folder.join("initdb"));
        if !initdb.is_file() {
            return None;
        }
        let major = major_version(&output(postgres.as_os_str(), "--version")?)?;
        (major >= OLDEST_MAJOR).then_some(Self { postgres, initdb, major })
    }
}

fn usual_folders() -> Vec<PathBuf> {
    let mut folders = debian_folders();
    let path = env::var_os("PATH").unwrap_or_default();
    folders.extend(env::split_paths(&path).filter(|folder| folder.is_absolute()));
    let configured = output(OsStr::new("pg_config"), "--bindir");
    folders.extend(configured.map(|folder| PathBuf::from(folder.trim())));
    folders
}

fn debian_folders() -> Vec<PathBuf> {
    let versions = fs::read_dir(DEBIAN_ROOT).into_iter().flatten().flatten();
    let mut numbered: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    numbered.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    numbered.into_iter().map(|(_, folder)| folder).collect()
}

fn output(program: &OsStr, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 17beta1` and `… 18devel`.
fn major_version(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(2)?;
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_is_read_from_every_form() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18devel"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 13"), Some(13));
        assert_eq!(major_version("something else"), None);
    }
}
