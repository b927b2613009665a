use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

const SCRIPT: &str = include_str!("watchdog.sh");

/// One shell for each test process, which ends the process's services when it is gone, however it went.
///
/// A parent-death signal would not do: it fires when the thread that started the service ends.
#[derive(Debug)]
pub(crate) struct Watchdog {
    folder: PathBuf,
    lines: Mutex<ChildStdin>,
    /// Not waited for, as it outlives this process.
    _shell: Child,
}

impl Watchdog {
    /// The watchdog of this process, started at the first call.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Watchdog> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A private folder, removed after the end of this process.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills the group when this process ends.
    pub(crate) fn watch(&self, group: u32) {
        self.say("watch", group);
    }

    /// Leaves the group alone; to be called before its number can be given to another one.
    pub(crate) fn forget(&self, group: u32) {
        self.say("forget", group);
    }

    fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pga-test-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .expect("a temporary folder");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "pganalytics-testkit"])
            .arg(folder.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("run `/bin/sh`");
        let lines = Mutex::new(shell.stdin.take().expect("standard input was piped"));
        Self { folder: folder.keep(), lines, _shell: shell }
    }

    fn say(&self, verb: &str, group: u32) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(lines, "{verb} {group}").expect("the watchdog lives as long as this process");
    }
}
