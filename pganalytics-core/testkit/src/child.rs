use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::wait_until;
use crate::watchdog::Watchdog;

const LOG_TAIL: usize = 4096;

/// A program under test, in a process group of its own, with its output in a file.
///
/// The group is killed when this value is dropped, and also when the test process ends without doing so. In a test
/// that fails the end of the log goes to standard error.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    name: String,
    log: PathBuf,
}

impl Child {
    /// Starts `command` with empty standard input; `name` is for messages and the log file.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn spawn(name: &str, mut command: Command) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let watchdog = Watchdog::shared();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = watchdog.folder().join(format!("{name}-{number}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let process = command.spawn()?;
        watchdog.watch(process.id());
        Ok(Self { process, name: name.to_owned(), log })
    }

    /// The process id, which is the group's too. It belongs to this process until the value is dropped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The file with standard output and standard error.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What was written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether the process has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Asks the process to end, with SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Interrupts the process as Ctrl-C does, with SIGINT to its whole group.
    pub fn interrupt(&self) {
        // A group that is gone is fine.
        let _ = killpg(self.id(), Signal::SIGINT);
    }

    /// Kills the process alone, not its group, with SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// When the process does not end within ten seconds.
    pub async fn kill_9(&self) {
        self.signal(Signal::SIGKILL);
        assert!(self.wait(Duration::from_secs(10)).await.is_some(), "{} survives SIGKILL", self.name);
    }

    /// Stops the process in its tracks, as if the machine hung, until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// How the process ended, as soon as it has; `None` when it still runs after `limit`.
    pub async fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        wait_until(limit, async || self.status().is_some()).await;
        self.status()
    }

    /// Leaves the ended process a zombie, so that its number is not given to another one.
    fn status(&self) -> Option<ExitStatus> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.id()), flags).expect("our own child can be waited for") {
            WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::from_raw(signal as i32)),
            _ => None,
        }
    }

    fn signal(&self, signal: Signal) {
        match kill(self.id(), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => panic!("signal {}: {errno}", self.name),
        }
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // A group that is gone is fine.
        let _ = killpg(self.id(), Signal::SIGKILL);
        Watchdog::shared().forget(self.process.id());
        let ended = self.process.wait();
        if thread::panicking() {
            let log = self.log();
            let start = log.char_indices().rev().nth(LOG_TAIL).map_or(0, |(index, _)| index);
            let _ = writeln!(io::stderr(), "the log of {} ends with:\n{}", self.name, &log[start..]);
        } else {
            ended.expect("our own child can be waited for");
        }
        // The folder goes with this process anyway.
        let _ = fs::remove_file(&self.log);
    }
}
