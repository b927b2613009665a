use std::io;

use chrono::{DateTime, Utc};
use pganalytics_core::backup::{ObjectInfo, ObjectPath};

use super::folder::{Folder, Kind};

/// Collects objects in byte order of their whole paths.
pub(super) struct Listing<'a> {
    /// Only what comes after this path.
    pub(super) after: Option<&'a ObjectPath>,
    pub(super) limit: usize,
    pub(super) objects: Vec<ObjectInfo>,
}

impl Listing<'_> {
    /// Adds what is in a folder; `prefix` is empty or ends with `/`.
    pub(super) fn add(&mut self, folder: &Folder, prefix: &str) -> io::Result<()> {
        let mut paths: Vec<(String, Kind)> = Vec::new();
        for (name, kind) in folder.names()? {
            // All paths in a folder begin with its name and a slash, and are sorted by that.
            let path = match kind {
                Kind::Object => format!("{prefix}{name}"),
                Kind::Folder => format!("{prefix}{name}/"),
                Kind::Alien => continue,
            };
            if self.wants(&path, kind) {
                paths.push((path, kind));
            }
        }
        paths.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (path, kind) in paths {
            if self.objects.len() >= self.limit {
                return Ok(());
            }
            let name = path[prefix.len()..].trim_end_matches('/');
            match kind {
                Kind::Object => self.add_object(folder, name, &path)?,
                _ => {
                    if let Some(child) = folder.child(name)? {
                        self.add(&child, &path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn wants(&self, path: &str, kind: Kind) -> bool {
        // What has no valid name was not put here: our own temporary folder, somebody else's files.
        if path.trim_end_matches('/').parse::<ObjectPath>().is_err() {
            return false;
        }
        let Some(after) = self.after.map(ObjectPath::as_str) else { return true };
        path > after || (kind == Kind::Folder && after.starts_with(path))
    }

    fn add_object(&mut self, folder: &Folder, name: &str, path: &str) -> io::Result<()> {
        // It may have been deleted in the meantime.
        if let (Some(file), Ok(path)) = (folder.open_file(name)?, path.parse()) {
            self.objects.push(info_of(path, &file.metadata()?)?);
        }
        Ok(())
    }
}

pub(super) fn info_of(path: ObjectPath, metadata: &std::fs::Metadata) -> io::Result<ObjectInfo> {
    let modified_at: DateTime<Utc> = metadata.modified()?.into();
    Ok(ObjectInfo::new(path, metadata.len(), modified_at))
}
