use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use pganalytics_core::keys::{KeyName, KeyVersion};
use pganalytics_core::random::os_random;
use zeroize::Zeroizing;

use super::error::FileKeyManagerError;
use crate::key_ring::weakness;
use crate::suite::KEY_BYTES;

const FIRST_LINE: &str = "pganalytics-key-file 1";
const EXTENSION: &str = "key";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const GROUP_READ: u32 = 0o040;
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
// A thousand versions; a wrong path must not pull a log file into memory.
const MAX_FILE_BYTES: u64 = 128 * 1024;

/// Who may read key files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Owner,
    /// Also their group.
    Group,
}

/// What tells one file of a name from the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// One version of a key-encryption key.
pub(super) struct KeyFileVersion {
    pub(super) version: KeyVersion,
    pub(super) created_at: DateTime<Utc>,
    pub(super) key: Zeroizing<[u8; KEY_BYTES]>,
}

/// What a key file holds: at least one version, rising.
pub(super) struct KeyFile {
    pub(super) versions: Vec<KeyFileVersion>,
}

impl KeyFile {
    /// A first version.
    pub(super) fn generate(now: DateTime<Utc>) -> Self {
        Self { versions: vec![generate_version(KeyVersion(1), now)] }
    }

    /// Adds a version; `None` when version numbers are used up.
    pub(super) fn add_version(&mut self, now: DateTime<Utc>) -> Option<KeyVersion> {
        let next = KeyVersion(self.versions.last()?.version.0.checked_add(1)?);
        self.versions.push(generate_version(next, now));
        Some(next)
    }
}

fn generate_version(version: KeyVersion, created_at: DateTime<Utc>) -> KeyFileVersion {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    os_random(&mut *key);
    KeyFileVersion { version, created_at, key }
}

/// A folder of key files.
#[derive(Debug)]
pub(super) struct KeyFolder {
    path: PathBuf,
    access: Access,
}

impl KeyFolder {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, FileKeyManagerError> {
        let folder = File::open(path).map_err(FileKeyManagerError::io(path, "opened"))?;
        let metadata = folder.metadata().map_err(FileKeyManagerError::io(path, "examined"))?;
        refuse_exposed_folder(&metadata, path, access)?;
        Ok(Self { path: path.into(), access })
    }

    pub(super) fn create(path: &Path, access: Access) -> Result<Self, FileKeyManagerError> {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(path)
            .map_err(FileKeyManagerError::io(path, "made"))?;
        Self::open(path, access)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps other writers of this folder out until the file is dropped.
    pub(super) fn lock(&self) -> Result<File, FileKeyManagerError> {
        let path = self.path.join(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(FileKeyManagerError::io(&path, "opened"))?;
        file.lock().map_err(FileKeyManagerError::io(&path, "locked"))?;
        Ok(file)
    }

    /// The names of all keys.
    pub(super) fn names(&self) -> Result<Vec<KeyName>, FileKeyManagerError> {
        let failed = || FileKeyManagerError::io(&self.path, "listed");
        let mut names = Vec::new();
        for entry in self.path.read_dir().map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            names.push(name.ok_or_else(|| malformed(&path, 0, "the file's name is no key name"))?);
        }
        Ok(names)
    }

    /// Which file the key has now.
    pub(super) fn identity(&self, name: &KeyName) -> Result<Option<FileIdentity>, FileKeyManagerError> {
        let path = self.file_of(name);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            metadata => {
                let metadata = metadata.map_err(FileKeyManagerError::io(&path, "examined"))?;
                Ok(Some(FileIdentity::of(&metadata)))
            }
        }
    }

    pub(super) fn read(
        &self,
        name: &KeyName,
    ) -> Result<Option<(KeyFile, FileIdentity)>, FileKeyManagerError> {
        let path = self.file_of(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(FileKeyManagerError::io(&path, "opened"))?,
        };
        let metadata = file.metadata().map_err(FileKeyManagerError::io(&path, "examined"))?;
        refuse_exposed_file(&metadata, &path, self.access)?;
        let mut text = Zeroizing::new(String::new());
        (&file)
            .take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(FileKeyManagerError::io(&path, "read"))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(malformed(&path, 0, "the file is larger than 128 KiB"));
        }
        let keys = parse(&text, name).map_err(|(line, what)| malformed(&path, line, what))?;
        Ok(Some((keys, FileIdentity::of(&metadata))))
    }

    /// Replaces a key file as a whole. The caller holds the lock.
    pub(super) fn write(&self, name: &KeyName, keys: &KeyFile) -> Result<FileIdentity, FileKeyManagerError> {
        let path = self.file_of(name);
        let failed = || FileKeyManagerError::io(&path, "written");
        let temporary = self.path.join(format!(".{name}.tmp"));
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed()(error)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&temporary)
            .map_err(failed())?;
        file.write_all(render(name, keys).as_bytes()).map_err(failed())?;
        file.sync_all().map_err(failed())?;
        let identity = FileIdentity::of(&file.metadata().map_err(failed())?);
        std::fs::rename(&temporary, &path).map_err(failed())?;
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(failed())?;
        Ok(identity)
    }

    pub(super) fn exhausted(&self, name: &KeyName) -> FileKeyManagerError {
        malformed(&self.file_of(name), 0, "its version numbers are used up")
    }

    fn file_of(&self, name: &KeyName) -> PathBuf {
        self.path.join(format!("{name}.{EXTENSION}"))
    }
}

fn malformed(path: &Path, line: usize, what: &'static str) -> FileKeyManagerError {
    FileKeyManagerError::Malformed { path: path.into(), line, what }
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn refuse_exposed_file(metadata: &Metadata, path: &Path, access: Access) -> Result<(), FileKeyManagerError> {
    let mode = metadata.mode() & 0o7777;
    let granted = if access == Access::Group { GROUP_READ } else { 0 };
    if mode & 0o077 & !granted != 0 {
        return Err(FileKeyManagerError::Exposed { path: path.into(), mode, required: FILE_MODE | granted });
    }
    Ok(())
}

fn refuse_exposed_folder(
    metadata: &Metadata,
    path: &Path,
    access: Access,
) -> Result<(), FileKeyManagerError> {
    let mode = metadata.mode() & 0o7777;
    let (is_exposed, required) = match access {
        Access::Owner => (mode & 0o077 != 0, FOLDER_MODE),
        // A mounted Secret lies in a folder of mode 1777 or 3777, where only the owner of a name can replace it.
        Access::Group => (mode & OTHERS_WRITE != 0 && mode & STICKY == 0, 0o755),
    };
    if is_exposed {
        return Err(FileKeyManagerError::Exposed { path: path.into(), mode, required });
    }
    Ok(())
}

fn render(name: &KeyName, keys: &KeyFile) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64 + keys.versions.len() * 96));
    text.push_str(FIRST_LINE);
    text.push_str("\nname ");
    text.push_str(name.as_str());
    text.push('\n');
    for version in &keys.versions {
        let created_at = version.created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let key = Zeroizing::new(STANDARD.encode(version.key.as_slice()));
        for part in ["version ", &version.version.0.to_string(), " ", &created_at, " ", &key, "\n"] {
            text.push_str(part);
        }
    }
    text
}

type LineError = (usize, &'static str);

fn parse(text: &str, name: &KeyName) -> Result<KeyFile, LineError> {
    let mut lines = text.lines().zip(1..);
    if lines.next().is_none_or(|(line, _)| line != FIRST_LINE) {
        return Err((1, "`pganalytics-key-file 1` is expected"));
    }
    if lines.next().and_then(|(line, _)| line.strip_prefix("name ")) != Some(name.as_str()) {
        return Err((2, "`name` and the file's own name are expected"));
    }
    let mut versions: Vec<KeyFileVersion> = Vec::new();
    for (line, number) in lines {
        let version = parse_version(line).map_err(|what| (number, what))?;
        if versions.last().is_some_and(|last| last.version >= version.version) {
            return Err((number, "versions must rise"));
        }
        versions.push(version);
    }
    if versions.is_empty() {
        return Err((3, "at least one `version` is expected"));
    }
    Ok(KeyFile { versions })
}

fn parse_version(line: &str) -> Result<KeyFileVersion, &'static str> {
    let mut parts = line.split(' ');
    let (Some("version"), Some(version), Some(created_at), Some(key), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("`version`, a number, a time and a key are expected");
    };
    let version = version.parse().ok().filter(|version| *version > 0).ok_or("the version is no number")?;
    let created_at = DateTime::parse_from_rfc3339(created_at).map_err(|_| "the time is not RFC 3339")?;
    let bytes = Zeroizing::new(STANDARD.decode(key).map_err(|_| "the key is not base64")?);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let exact: &[u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| "the key has not 32 bytes")?;
    key.copy_from_slice(exact);
    weakness(&key).map_or(Ok(()), Err)?;
    Ok(KeyFileVersion { version: KeyVersion(version), created_at: created_at.to_utc(), key })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn orders() -> KeyName {
        "orders".parse().unwrap()
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_225_600, 0).unwrap()
    }

    #[test]
    fn a_rendered_file_is_parsed_back() {
        let mut keys = KeyFile::generate(now());
        assert_eq!(keys.add_version(now()), Some(KeyVersion(2)));
        let parsed = parse(&render(&orders(), &keys), &orders()).unwrap();
        assert_eq!(parsed.versions.len(), 2);
        for (ours, theirs) in keys.versions.iter().zip(&parsed.versions) {
            assert_eq!(ours.version, theirs.version);
            assert_eq!(ours.created_at, theirs.created_at);
            assert_eq!(ours.key, theirs.key);
        }
    }

    #[test]
    fn malformed_lines_are_named() {
        let key = STANDARD.encode(generate_version(KeyVersion(1), now()).key.as_slice());
        let file = |versions: &str| format!("{FIRST_LINE}\nname orders\n{versions}");
        let time = "2026-01-01T00:00:00Z";
        for (text, line) in [
            (String::new(), 1),
            ("pganalytics-key-file 2\nname orders\n".into(), 1),
            (format!("{FIRST_LINE}\nname other\nversion 1 {time} {key}\n"), 2),
            (file(""), 3),
            (file("\n"), 3),
            (file(&format!("version 0 {time} {key}\n")), 3),
            (file(&format!("version 1 yesterday {key}\n")), 3),
            (file(&format!("version 1 {time} {key} more\n")), 3),
            (file(&format!("version 1 {time} AAAA\n")), 3),
            (file(&format!("version 1 {time} {}\n", STANDARD.encode([7; 32]))), 3),
            (file(&format!("version 1 {time} not*base64\n")), 3),
            (file(&format!("version 2 {time} {key}\nversion 2 {time} {key}\n")), 4),
        ] {
            assert_eq!(parse(&text, &orders()).err().unwrap().0, line, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*", cut in 0..200_usize) {
            let _ = parse(&text, &orders());
            let good = render(&orders(), &KeyFile::generate(now()));
            let spliced = format!("{}{text}", &good[..cut.min(good.len())]);
            let _ = parse(&spliced, &orders());
        }
    }
}
