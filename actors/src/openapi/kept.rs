//! The documents of registered servers: replicated, so that every node can serve them. A document is larger than a record
//! may be, so it is kept in pieces; it is there once its last piece is.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use troupe_protocol::server::ServerName;

use super::document::DocumentError;
use crate::runtime::Deadline;
use crate::store::replicated::WRITE_WITHIN;
use crate::store::{RecordBatch, ReplicatedTree, Store, WriteError};

/// The replicated trees of documents.
pub const TREES: &[&str] = &[TREE];
const TREE: &str = "openapi_documents";
const SCHEMA: u16 = 1;
/// The most bytes of a piece; a record may have 96 KiB, and text can take more there than it has bytes.
const PIECE_BYTES_MAX: usize = 40 * 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Piece {
    /// How many there are.
    count: u32,
    text: String,
}

/// The documents. Cheap to clone.
#[derive(Clone)]
pub struct Documents {
    store: Store,
    tree: ReplicatedTree<Piece>,
}

impl Documents {
    /// The documents of this store.
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            tree: store.replicated(TREE, SCHEMA),
        }
    }

    /// What a document of this text is called.
    pub fn digest(text: &str) -> String {
        let digest: [u8; 32] = Sha256::digest(text).into();
        hex::encode(&digest[..16])
    }

    /// Keeps a server's document, as far as it is not kept. Answers the guards of what refers to it: another node may
    /// forget a part of it before that is written.
    ///
    /// # Errors
    /// [`WriteError`] when a majority cannot be reached in time, or the disk fails.
    pub async fn put(&self, server: &ServerName, text: &str) -> Result<RecordBatch, WriteError> {
        let digest = Self::digest(text);
        let pieces = pieces_of(text);
        let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let mut guards = RecordBatch::default();
        for (number, piece) in pieces.into_iter().enumerate() {
            let (key, text) = (key(server, &digest, number), piece.to_owned());
            let piece = Piece { count, text };
            let version = self.tree.version_of(&key, &piece);
            let kept = self.tree.get_versioned(&key)?;
            if kept.map(|kept| kept.version) != version {
                self.tree.put(&key, &piece).await?;
            }
            self.tree.guard_into(&mut guards, &key, version);
        }
        Ok(guards)
    }

    /// A server's document. Reads the disk.
    ///
    /// # Errors
    /// [`DocumentError::Missing`] when it is not whole at this node.
    pub fn get(&self, server: &ServerName, digest: &str) -> Result<String, DocumentError> {
        let mut text = String::new();
        let mut number = 0;
        loop {
            let piece = self.tree.get(&key(server, digest, number));
            let piece = piece.map_err(|error| DocumentError::Missing(error.to_string()))?;
            let missing = || DocumentError::Missing(format!("piece {number} of {digest} is missing"));
            let piece = piece.ok_or_else(missing)?;
            text.push_str(&piece.text);
            number += 1;
            if number >= piece.count as usize {
                return Ok(text);
            }
        }
    }

    /// Forgets the documents of a server but for the one of this digest.
    ///
    /// # Errors
    /// [`WriteError`] as for [`Documents::put`].
    pub async fn forget_others(&self, server: &ServerName, kept: Option<&str>) -> Result<(), WriteError> {
        let prefix = format!("{server}/");
        let kept = kept.map(|digest| format!("{prefix}{digest}/"));
        let mut batch = RecordBatch::default();
        for key in self.tree.scan_prefix(&prefix) {
            let (key, _) = key?;
            if !kept.as_deref().is_some_and(|kept| key.starts_with(kept)) {
                self.tree.remove_into(&mut batch, &key);
            }
        }
        if batch.changes.is_empty() {
            return Ok(());
        }
        self.store
            .write_records(batch, Deadline::within(WRITE_WITHIN))
            .await
    }
}

fn key(server: &ServerName, digest: &str, number: usize) -> String {
    format!("{server}/{digest}/{number:05}")
}

fn pieces_of(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE_BYTES_MAX {
        let is_end = |at: &usize| rest.is_char_boundary(*at);
        let end = (0..=PIECE_BYTES_MAX).rev().find(is_end).unwrap_or(rest.len());
        let (piece, left) = rest.split_at(end);
        pieces.push(piece);
        rest = left;
    }
    pieces.push(rest);
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_refers_to_a_document_is_not_written_when_a_part_of_it_was_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (documents, entries) = (Documents::new(&store), store.replicated::<String>("entries", 1));
        let server: ServerName = "pets".parse().unwrap();
        let text = "ä".repeat(PIECE_BYTES_MAX);
        let refer = |guards: RecordBatch| {
            let (mut batch, store, entries) = (guards, store.clone(), entries.clone());
            async move {
                entries
                    .put_into(&mut batch, "pets", &"refers".to_owned())
                    .unwrap();
                store.write_records(batch, Deadline::within(WRITE_WITHIN)).await
            }
        };
        let guards = documents.put(&server, &text).await.unwrap();
        assert_eq!(guards.guards.len(), 2);
        // Another node knows of no entry that refers to it.
        documents.forget_others(&server, None).await.unwrap();
        let written = refer(guards).await;
        assert!(matches!(written, Err(WriteError::Conflict(_))), "{written:?}");
        let guards = documents.put(&server, &text).await.unwrap();
        refer(guards).await.unwrap();
        assert_eq!(documents.get(&server, &Documents::digest(&text)).unwrap(), text);
    }
}
