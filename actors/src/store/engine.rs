//! What a database engine must give. `sled_engine` is the one in use; another takes its place by implementing these two.

use std::ops::Bound;
use std::sync::Arc;

use thiserror::Error;

/// What the engine said when it failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// One change to one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawChange {
    /// Insert or replace.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The record.
        value: Vec<u8>,
    },
    /// Remove, if there.
    Remove {
        /// The key.
        key: Vec<u8>,
    },
}

/// A walk over a tree in the order of keys, from either end.
pub type RawRange = Box<dyn DoubleEndedIterator<Item = Result<(Vec<u8>, Vec<u8>), EngineError>> + Send>;

/// An ordered map from bytes to bytes.
pub trait Tree: Send + Sync {
    /// The record at a key.
    ///
    /// # Errors
    /// When the engine cannot read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Applies the changes: all or none, also after a crash. Visible at once, durable after [`Engine::sync`].
    ///
    /// # Errors
    /// When the engine cannot write.
    fn apply(&self, changes: Vec<RawChange>) -> Result<(), EngineError>;

    /// The records between two keys.
    fn range(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> RawRange;
}

/// A set of named trees in one folder.
pub trait Engine: Send + Sync {
    /// The tree with this name, made when there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, EngineError>;

    /// The names of all trees.
    fn tree_names(&self) -> Vec<String>;

    /// Returns once everything applied so far, to whichever tree, would survive a power cut.
    ///
    /// # Errors
    /// When the disk refuses; what it holds is then unknown.
    fn sync(&self) -> Result<(), EngineError>;

    /// What the database takes on the disk, in bytes.
    fn bytes_on_disk(&self) -> u64;
}
