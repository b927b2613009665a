use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, Utc};
use pganalytics_core::clock::Clock;
use pganalytics_core::random::Random;

use super::config::{FileAuditConfig, FileSync};
use super::rotated::Rotated;
use super::tail;
use crate::audit::json_line;
use crate::audit::lock::LockFile;

/// The open file.
#[derive(Debug)]
pub(super) struct Writer {
    config: FileAuditConfig,
    folder: File,
    file: File,
    /// Where the last whole line ends.
    length: u64,
    /// Something stands after that, which could not be cut off.
    frayed: bool,
    /// The day that the file is for.
    day: NaiveDate,
    rotated: Rotated,
    /// Held as long as the file is written.
    _lock: LockFile,
}

impl Writer {
    pub(super) fn open(config: FileAuditConfig, clock: &dyn Clock, random: &dyn Random) -> io::Result<Self> {
        let path = parent(&config.path);
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = File::open(path)?;
        let lock = lock(&config.path)?;
        let mut file = open_file(&config.path)?;
        let today = clock.now().date_naive();
        let torn = tail::take_torn_line(&mut file)?;
        let length = file.metadata()?.len();
        let day = if length == 0 { today } else { last_written(&file)? };
        let rotated = Rotated::find(&config.path)?;
        let mut writer = Self { config, folder, file, length, frayed: false, day, rotated, _lock: lock };
        writer.sync_folder()?;
        if let Some(torn) = torn {
            tracing::warn!(bytes = torn.len(), "a line of the audit file was torn by a crash");
            let lines = json_line::lines(&[tail::torn_event(&torn, clock, random)]);
            writer.append(&lines, today)?;
        }
        Ok(writer)
    }

    /// Writes lines, all of them or none.
    pub(super) fn append(&mut self, lines: &[u8], today: NaiveDate) -> io::Result<()> {
        self.cut_back()?;
        if self.is_finished(lines.len() as u64, today) {
            self.rotate(today)?;
        }
        self.frayed = true;
        let written = self.write(lines);
        match written {
            Ok(()) => {
                self.length += lines.len() as u64;
                self.frayed = false;
            }
            Err(_) => {
                if let Err(error) = self.cut_back() {
                    tracing::error!(%error, "the audit file ends with a part of a batch, until it can be cut off");
                }
            }
        }
        written
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)?;
        match self.config.sync {
            FileSync::EachBatch => self.file.sync_data(),
            FileSync::Never => Ok(()),
        }
    }

    fn cut_back(&mut self) -> io::Result<()> {
        if self.frayed {
            self.file.set_len(self.length)?;
            self.frayed = false;
        }
        Ok(())
    }

    /// A clock that was stepped back finishes nothing.
    fn is_finished(&self, more: u64, today: NaiveDate) -> bool {
        let full = self.length.saturating_add(more) > self.config.max_bytes;
        self.length > 0 && (full || (self.config.daily && today > self.day))
    }

    fn rotate(&mut self, today: NaiveDate) -> io::Result<()> {
        if self.config.sync == FileSync::EachBatch {
            self.file.sync_all()?;
        }
        self.rotated.add(&self.config.path, self.day)?;
        self.file = open_file(&self.config.path)?;
        self.length = 0;
        self.day = today;
        self.sync_folder()?;
        self.rotated.keep_last(self.config.keep);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        match self.config.sync {
            FileSync::EachBatch => self.folder.sync_all(),
            FileSync::Never => Ok(()),
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Keeps every other process from cutting off what this one writes.
fn lock(path: &Path) -> io::Result<LockFile> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    LockFile::take(&PathBuf::from(name))?.ok_or_else(|| {
        let message = format!("another process writes `{}`", path.display());
        io::Error::new(io::ErrorKind::ResourceBusy, message)
    })
}

fn last_written(file: &File) -> io::Result<NaiveDate> {
    Ok(DateTime::<Utc>::from(file.metadata()?.modified()?).date_naive())
}
