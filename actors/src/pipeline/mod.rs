//! Models: embeddings.
