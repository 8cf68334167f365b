//! Child processes: found on PATH, given a small environment, and killed with everything they started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use process_wrap::tokio::{ChildWrapper, CommandWrap};
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

/// What a server inherits of the node's environment: what it takes to find programs, folders, language and
/// certificates, and nothing that might be a secret of the node's.
const INHERITED_ENV: &[&str] = if cfg!(windows) {
    &[
        "APPDATA",
        "HOMEDRIVE",
        "HOMEPATH",
        "LOCALAPPDATA",
        "PATH",
        "PATHEXT",
        "PROCESSOR_ARCHITECTURE",
        "PROGRAMFILES",
        "SYSTEMDRIVE",
        "SYSTEMROOT",
        "TEMP",
        "TMP",
        "USERNAME",
        "USERPROFILE",
    ]
} else {
    &[
        "HOME",
        "LANG",
        "LC_ALL",
        "LOGNAME",
        "PATH",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TERM",
        "TMPDIR",
        "TZ",
        "USER",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
    ]
};

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// The command does not exist.
    #[error("command {command:?} was not found on PATH ({path})")]
    NotFound { command: String, path: String },
    /// The operating system refused.
    #[error("command {command:?} could not be started: {reason}")]
    Refused { command: String, reason: String },
}

/// A process and everything it started, as long as that stays in its process group. Killed when dropped.
pub(crate) struct ProcessTree {
    child: Box<dyn ChildWrapper>,
    is_gone: bool,
}

/// The pipes to a process.
pub(crate) struct Pipes {
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

/// Starts a program. Nothing is ever given to a shell.
pub(crate) fn spawn(
    command: &str,
    args: &[String],
    cwd: Option<&str>,
    env: &BTreeMap<String, SecretString>,
) -> Result<(ProcessTree, Pipes), SpawnError> {
    let program = find(command, cwd, env)?;
    let refused = |reason: String| SpawnError::Refused {
        command: command.to_owned(),
        reason,
    };
    let mut wrapped = CommandWrap::with_new(program, |process| {
        process.args(args).env_clear();
        process.envs(
            INHERITED_ENV
                .iter()
                .filter_map(|name| Some((*name, std::env::var_os(name)?))),
        );
        process.envs(env.iter().map(|(name, value)| (name, value.expose_secret())));
        process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(cwd) = cwd {
            process.current_dir(cwd);
        }
    });
    wrapped.wrap(process_wrap::tokio::KillOnDrop);
    #[cfg(unix)]
    wrapped.wrap(process_wrap::tokio::ProcessGroup::leader());
    #[cfg(windows)]
    wrapped.wrap(process_wrap::tokio::JobObject);
    let child = wrapped.spawn().map_err(|error| refused(error.to_string()))?;
    let mut tree = ProcessTree {
        child,
        is_gone: false,
    };
    let pipes = (
        tree.child.stdin().take(),
        tree.child.stdout().take(),
        tree.child.stderr().take(),
    );
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(refused("its standard streams could not be opened".to_owned()));
    };
    Ok((
        tree,
        Pipes {
            stdin,
            stdout,
            stderr,
        },
    ))
}

fn find(
    command: &str,
    cwd: Option<&str>,
    env: &BTreeMap<String, SecretString>,
) -> Result<PathBuf, SpawnError> {
    let own_path = env.get("PATH").map(|path| OsString::from(path.expose_secret()));
    let path = own_path.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    let folder = cwd
        .map(PathBuf::from)
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_default();
    which::which_in(command, Some(&path), folder).map_err(|_| SpawnError::NotFound {
        command: command.to_owned(),
        path: path.to_string_lossy().into_owned(),
    })
}

/// Stops a process group where it is, or lets it go on. Whether that was possible.
pub(crate) fn suspend(leader: u32, is_suspended: bool) -> bool {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        let signal = if is_suspended { Signal::STOP } else { Signal::CONT };
        let leader = i32::try_from(leader).ok().and_then(Pid::from_raw);
        leader.is_some_and(|leader| kill_process_group(leader, signal).is_ok())
    }
    #[cfg(not(unix))]
    {
        let _ = (leader, is_suspended);
        false
    }
}

impl ProcessTree {
    /// The id of the process itself.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the process ends; says how it ended.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("its end could not be observed: {error}"),
        }
    }

    /// Ends the process and everything it started. Its input must have been closed before: a well-behaved server ends
    /// upon that. The others get a signal, then no choice.
    pub async fn stop(mut self, patience: Duration) {
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            #[cfg(unix)]
            {
                const SIGTERM: i32 = 15;
                // Fails only if the group is gone already.
                let _ = self.child.signal(SIGTERM);
            }
            let _ = tokio::time::timeout(patience, self.ended()).await;
        }
        self.kill_all();
        let _ = tokio::time::timeout(patience, self.ended()).await;
    }

    /// Kills whatever is left of the group, grandchildren included.
    fn kill_all(&mut self) {
        if !std::mem::replace(&mut self.is_gone, true) {
            // Fails if nothing is left, which is what is wanted.
            let _ = self.child.start_kill();
        }
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn describe(status: std::process::ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if let Some(signal) = status.signal() {
            return format!("the process was killed by signal {signal}");
        }
    }
    match status.code() {
        Some(code) => format!("the process ended with status {code}"),
        None => "the process ended".to_owned(),
    }
}
