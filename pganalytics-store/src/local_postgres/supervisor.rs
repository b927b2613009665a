use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::LocalPostgresError;
use super::identity::Identity;

const SCRIPT: &str = include_str!("supervisor.sh");
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What becomes of the folders when the server has ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum After {
    Keep,
    Clean,
}

/// The shell between us and the server; see `supervisor.sh`.
///
/// Only the standard library's process handling is used, so that a server outlives the runtime it was started on.
#[derive(Debug)]
pub(super) struct Supervisor {
    shell: Option<Child>,
    orders: Option<ChildStdin>,
    /// Open at the other end as long as a process of the server lives.
    life: ChildStdout,
    announced: Vec<u8>,
    ended: bool,
}

impl Supervisor {
    pub(super) fn spawn(
        arguments: Vec<OsString>,
        log: File,
        identity: &Identity,
    ) -> Result<Self, LocalPostgresError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "pganalytics-postgres"]).args(arguments);
        command
            .env_clear()
            .envs([("PATH", PATH), ("LC_ALL", "C"), ("TZ", "UTC")])
            .current_dir(Path::new("/"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(log));
        // Ctrl-C in a terminal is for the owner alone.
        command.process_group(0);
        identity.apply(&mut command);
        let failed = LocalPostgresError::system("run `/bin/sh`");
        let mut shell = command.spawn().map_err(failed)?;
        let orders = shell.stdin.take();
        let life = shell.stdout.take().expect("standard output was piped");
        fcntl(&life, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| LocalPostgresError::system("set up a pipe")(errno.into()))?;
        Ok(Self { shell: Some(shell), orders, life, announced: Vec::new(), ended: false })
    }

    /// The server's process id, once it is started.
    pub(super) fn server_pid(&mut self) -> Option<i32> {
        self.listen();
        let line = self.announced.strip_suffix(b"\n")?;
        std::str::from_utf8(line).ok()?.parse().ok()
    }

    /// Whether the last process of the server has ended, or none was ever started.
    pub(super) fn server_ended(&mut self) -> bool {
        self.listen();
        self.ended
    }

    /// Orders the server's end; a server that has ended already is fine.
    pub(super) fn order(&mut self, signal: &str, after: After) {
        let after = match after {
            After::Keep => "keep",
            After::Clean => "clean",
        };
        if let Some(mut orders) = self.orders.take() {
            // An error means that the shell is gone, which `finished` will see.
            let _ = writeln!(orders, "{signal} {after}");
        }
    }

    /// Whether the shell has done what it was ordered to.
    pub(super) fn finished(&mut self) -> io::Result<bool> {
        let Some(shell) = &mut self.shell else { return Ok(true) };
        let finished = shell.try_wait()?.is_some();
        if finished {
            self.shell = None;
        }
        Ok(finished)
    }

    fn listen(&mut self) {
        let mut buffer = [0_u8; 64];
        while !self.ended {
            match self.life.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => self.announced.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_nothing_to_read) => return,
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(mut shell) = self.shell.take() {
            // The shell ends by itself; the thread only keeps it from staying a zombie of a long-lived owner.
            let _ = thread::Builder::new().name("postgres-reaper".to_owned()).spawn(move || shell.wait());
        }
    }
}
