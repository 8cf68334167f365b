//! Computes vectors batch by batch, and keeps them over restarts by content hash.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::index::dense::Vector;
use super::index::document::ContentHash;
use crate::pipeline::embedding::Embedder;
use crate::pipeline::embedding::model::BATCH_TEXTS_MAX;
use crate::store::{Change, Store, StoreError, TypedTree};

/// The tree's name in the store.
const TREE: &str = "router.vectors";
/// The version of its records.
const SCHEMA_VERSION: u16 = 1;
/// The model whose vectors these are: another model's are computed anew.
const MODEL: &str = "minilm-l6-v2";

/// A vector on the disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredVector {
    model: String,
    /// Little-endian 32-bit floats in base64.
    values: String,
}

/// Vectors on the disk by the hash of their text. Cached: may be deleted at any time.
#[derive(Clone)]
pub struct VectorTree(TypedTree<StoredVector>);

impl VectorTree {
    /// Opens the tree.
    ///
    /// # Errors
    /// When the store cannot.
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self(store.tree(TREE, SCHEMA_VERSION)?))
    }

    fn get(&self, hash: &ContentHash) -> Option<Vector> {
        // A record that cannot be read is computed again.
        let stored = self
            .0
            .get(&hex::encode(hash.0))
            .ok()
            .flatten()
            .filter(|stored| stored.model == MODEL)?;
        let bytes = BASE64.decode(stored.values).ok()?;
        let (values, rest) = bytes.as_chunks::<4>();
        rest.is_empty()
            .then(|| values.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    async fn put(&self, vectors: &[(ContentHash, Vector)]) -> Result<(), StoreError> {
        let record = |vector: &Vector| {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            StoredVector {
                model: MODEL.to_owned(),
                values: BASE64.encode(bytes),
            }
        };
        let changes = vectors
            .iter()
            .map(|(hash, vector)| Change::Put(hex::encode(hash.0), record(vector)))
            .collect();
        self.0.batch(changes).await
    }
}

/// Computes the vectors of these texts, those on the disk first, and hands them over batch by batch. Stops when the
/// model fails: the texts without a vector are found by their words.
pub(super) async fn compute(
    texts: Vec<(ContentHash, String)>,
    embedder: &Embedder,
    tree: Option<&VectorTree>,
    mut hand_over: impl FnMut(Vec<(ContentHash, Vector)>),
) {
    let mut kept = Vec::new();
    let mut wanted = Vec::new();
    for (hash, text) in texts {
        match tree.and_then(|tree| tree.get(&hash)) {
            Some(vector) => kept.push((hash, vector)),
            None => wanted.push((hash, text)),
        }
    }
    if !kept.is_empty() {
        hand_over(kept);
    }
    // Texts of like length together: a batch costs as much as its longest text times its size.
    wanted.sort_by_key(|(_, text)| text.len());
    for batch in wanted.chunks(BATCH_TEXTS_MAX) {
        let texts = batch.iter().map(|(_, text)| text.clone()).collect();
        let vectors = match embedder.embed_batch(texts).await {
            Ok(vectors) => vectors,
            Err(error) => {
                tracing::warn!(%error, "tools are left without vectors");
                return;
            }
        };
        let pairs: Vec<_> = batch.iter().map(|(hash, _)| *hash).zip(vectors).collect();
        if let Some(tree) = tree
            && let Err(error) = tree.put(&pairs).await
        {
            tracing::warn!(%error, "vectors are not kept over the next restart");
        }
        hand_over(pairs);
    }
}
