use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;

/// The finished files, the oldest first.
///
/// They are numbered: neither their names' days nor their times on disk tell the order, since clocks are stepped back.
#[derive(Debug)]
pub(super) struct Rotated {
    files: VecDeque<(u64, PathBuf)>,
}

impl Rotated {
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut files = Vec::new();
        for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let entry = entry?;
            if let Some(number) = entry.file_name().to_str().and_then(|name| number_of(name, path)) {
                files.push((number, entry.path()));
            }
        }
        files.sort();
        Ok(Self { files: files.into() })
    }

    /// Moves the file among them.
    pub(super) fn add(&mut self, path: &Path, day: NaiveDate) -> io::Result<()> {
        let number = self.files.back().map_or(1, |(number, _)| number + 1);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{day}.{number:06}"));
        let finished = PathBuf::from(name);
        fs::rename(path, &finished)?;
        self.files.push_back((number, finished));
        Ok(())
    }

    /// Deletes all but so many.
    pub(super) fn keep_last(&mut self, keep: usize) {
        while self.files.len() > keep {
            let Some((_, path)) = self.files.pop_front() else { return };
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an old audit file is not deleted");
                }
                _ => {}
            }
        }
    }
}

/// `<name>.<day>.<number>`, and nothing else.
fn number_of(name: &str, path: &Path) -> Option<u64> {
    let rest = name.strip_prefix(path.file_name()?.to_str()?)?.strip_prefix('.')?;
    let (day, number) = rest.split_once('.')?;
    day.parse::<NaiveDate>().ok()?;
    number.parse().ok()
}
