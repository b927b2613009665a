use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A file system of its own, which is soon full.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, with a message, where mounting is not allowed.
    pub(crate) fn mount(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        if !run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], folder.path()) {
            eprintln!("skipped: mounting a small file system is not allowed here");
            return None;
        }
        Some(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
    let mut command = Command::new(program);
    let command = command.args(arguments).arg(folder).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
