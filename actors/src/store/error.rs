//! What can go wrong with the store, said so that a person knows what to do.

use std::path::{Path, PathBuf};

use thiserror::Error;
use troupe_protocol::error::{Code, Coded};

use super::engine::EngineError;

/// Why the store cannot be opened, or why a record cannot be read or written.
///
/// Clonable, because one failed sync answers every writer that shared it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Two nodes on one folder.
    #[error(
        "the data folder {} is in use by another troupe node{}: stop that one, or give this one a folder of its own \
         with --data", folder.display(), holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// The process that has it, when it said so.
        holder: Option<u32>,
    },
    /// The database does not open.
    #[error(
        "the database in {} does not open: {reason}. Restore the data folder from a backup, or move \
         it away to start with an empty one", folder.display()
    )]
    Unreadable {
        /// The data folder.
        folder: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// The folder had a database, and now another one or none is there.
    #[error(
        "the database that belongs to {} is gone: {reason}. Restore `store` and `commits` from a backup, or move the whole \
         data folder away to start with an empty one", folder.display()
    )]
    Lost {
        /// The data folder.
        folder: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// The database is older than what was acknowledged.
    #[error(
        "the database in {} has lost its last {missing} commits (it has {found}, {acknowledged} were acknowledged): its \
         file is damaged. Restore the data folder from a backup; to go on with what is left, delete the file `commits`",
        folder.display(), missing = acknowledged.saturating_sub(*found)
    )]
    RolledBack {
        /// The data folder.
        folder: PathBuf,
        /// The last commit that is there.
        found: u64,
        /// The last commit that was acknowledged.
        acknowledged: u64,
    },
    /// A record is not what was written.
    #[error(
        "record {key:?} of tree `{tree}` in {} is damaged: {reason}. Run `troupe doctor` to find all damaged records, then \
         restore the data folder from a backup", folder.display()
    )]
    Corrupt {
        /// The data folder.
        folder: PathBuf,
        /// The tree.
        tree: String,
        /// The record's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A record was written by a later version of this program.
    #[error(
        "record {key:?} of tree `{tree}` has schema version {found}, this troupe knows up to {known}: it was written by a \
         later version; use that one"
    )]
    SchemaTooNew {
        /// The tree.
        tree: String,
        /// The record's key.
        key: String,
        /// The record's schema version.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// A record of an earlier version cannot be brought to this one.
    #[error(
        "record {key:?} of tree `{tree}` cannot be migrated from schema version {from} to {to}: {reason}"
    )]
    Migration {
        /// The tree.
        tree: String,
        /// The record's key.
        key: String,
        /// The record's schema version.
        from: u16,
        /// Ours.
        to: u16,
        /// Why not.
        reason: String,
    },
    /// A record is whole but not of the expected shape: a change of schema without a new version.
    #[error("record {key:?} of tree `{tree}` is not what its schema version {schema} says: {reason}")]
    Shape {
        /// The tree.
        tree: String,
        /// The record's key.
        key: String,
        /// The record's schema version.
        schema: u16,
        /// What does not fit.
        reason: String,
    },
    /// Too large for a record.
    #[error(
        "{what} of tree `{tree}` at {key:?} is {bytes} bytes, the most is {bytes_max}: put large content into a blob and \
         its id into the record"
    )]
    TooLarge {
        /// What is too large: the record, the key, the batch.
        what: &'static str,
        /// The tree.
        tree: String,
        /// The record's key (shortened).
        key: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}: {reason}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A blob is not what its id says.
    #[error("blob {id} in {} is damaged: its content has another SHA-256; restore it from a backup", folder.display())]
    CorruptBlob {
        /// The data folder.
        folder: PathBuf,
        /// The blob.
        id: String,
    },
    /// What was being read as it was at one moment is no longer to be had.
    #[error("the state cannot be read as it was when that began: {reason}; try again")]
    Overtaken {
        /// What came before its end.
        reason: &'static str,
    },
    /// The engine failed while running. After a failed write or sync nothing more is written until the next start, because
    /// what the disk holds is then unknown.
    #[error("the database in {} failed: {reason}. Check the disk (space, errors), then restart the node", folder.display())]
    Failed {
        /// The data folder.
        folder: PathBuf,
        /// What the engine said.
        reason: String,
    },
}

impl StoreError {
    pub(super) fn engine(folder: &Path, error: &EngineError) -> Self {
        Self::Failed {
            folder: folder.to_owned(),
            reason: error.to_string(),
        }
    }

    pub(super) fn file(doing: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::File {
            doing,
            path: path.to_owned(),
            reason: error.to_string(),
        }
    }
}

impl Coded for StoreError {
    fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::RecordTooLarge,
            Self::InUse { .. } | Self::File { .. } | Self::Failed { .. } | Self::Overtaken { .. } => {
                Code::StoreUnavailable
            }
            Self::Unreadable { .. }
            | Self::Lost { .. }
            | Self::RolledBack { .. }
            | Self::Corrupt { .. }
            | Self::CorruptBlob { .. }
            | Self::SchemaTooNew { .. }
            | Self::Migration { .. }
            | Self::Shape { .. } => Code::StoreCorrupt,
        }
    }
}
