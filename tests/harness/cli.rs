//! The command line, as a person types it on the machine of the node.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::binary;

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Printed {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `troupe ARGUMENTS --data FOLDER` to its end.
pub async fn run(data: &Path, arguments: &[&str]) -> Printed {
    run_with_key(data, None, arguments).await
}

/// As [`run`], with this key unless the folder holds one.
pub async fn run_with_key(data: &Path, key: Option<&str>, arguments: &[&str]) -> Printed {
    let mut command = Command::new(binary::path());
    // before a `--` that begins a server's command line
    let own = arguments
        .iter()
        .position(|argument| *argument == "--")
        .unwrap_or(arguments.len());
    command
        .args(&arguments[..own])
        .arg("--data")
        .arg(data)
        .args(&arguments[own..]);
    if let Some(key) = key
        && !data.join("admin.key").exists()
    {
        command.env("TROUPE_KEY", key);
    }
    command
        .stdin(Stdio::null())
        .env_remove("RUST_LOG")
        .env("NO_COLOR", "1")
        .kill_on_drop(true);
    let output = command.output().await.expect("troupe runs");
    Printed {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
    }
}

impl Printed {
    /// Asserts success and answers what was printed.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Asserts success and that the whole output is one JSON value.
    pub fn json(self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Asserts a failure and answers what it said.
    pub fn failed(self) -> String {
        assert!(
            self.code.is_some_and(|code| code != 0),
            "expected a failure: {self:?}"
        );
        self.stderr
    }
}
