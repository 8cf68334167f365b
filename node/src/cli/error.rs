//! Why a command failed, in words and as an exit code.

use std::process::ExitCode;

use troupe_protocol::error::Problem;

use crate::config::ConfigError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The node answered with a problem.
    #[error("{}: {}", .0.code, .0.detail)]
    Problem(Box<Problem>),
    /// There is no node to ask.
    #[error("{0}")]
    NoNode(String),
    /// There is a node but no key for it.
    #[error("{0}")]
    NoKey(String),
    /// A flag or setting is wrong.
    #[error("{0}")]
    Usage(String),
    /// Something else failed.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The process's exit code; the command line's help lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Problem(problem) if matches!(problem.status, 401 | 403) => 4,
            Self::Problem(_) | Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NoNode(_) => 3,
            Self::NoKey(_) => 4,
        })
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}
