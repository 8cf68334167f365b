//! Vectors of documents, one after the other in memory, searched exactly.
//!
//! Up to about 10,000 vectors an exact scan takes a millisecond, less than embedding the question; an approximate
//! index would only lose recall. The vectors come from outside (`pipeline::embedding`): nothing here computes one.

use std::sync::Arc;

/// A vector of length 1.
pub type Vector = Arc<[f32]>;

/// The vectors of documents; some may not be there yet.
#[derive(Debug, Default)]
pub struct DenseIndex {
    dimensions: usize,
    values: Vec<f32>,
    /// For each document: where its vector begins, counted in vectors.
    slots: Vec<Option<u32>>,
    filled: usize,
}

impl DenseIndex {
    /// Indexes documents; their positions are their numbers. A vector of another length than the first is left out.
    pub fn build<'a>(vectors: impl IntoIterator<Item = Option<&'a Vector>>) -> Self {
        let mut index = Self::default();
        for vector in vectors {
            let Some(vector) = vector else {
                index.slots.push(None);
                continue;
            };
            if index.dimensions == 0 {
                index.dimensions = vector.len();
            }
            if vector.len() != index.dimensions {
                index.slots.push(None);
                continue;
            }
            index.slots.push(Some(index.filled as u32));
            index.values.extend_from_slice(vector);
            index.filled += 1;
        }
        index
    }

    /// How many documents have a vector.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// The cosine of every document and a question's vector, at least 0; nothing for a document without a vector.
    pub fn cosines(&self, question: &[f32]) -> Vec<Option<f32>> {
        let fits = self.dimensions == question.len() && self.dimensions > 0;
        self.slots
            .iter()
            .map(|slot| {
                let begin = (*slot)? as usize * self.dimensions;
                let vector = fits
                    .then(|| self.values.get(begin..begin + self.dimensions))
                    .flatten()?;
                let dot: f32 = vector.iter().zip(question).map(|(a, b)| a * b).sum();
                Some(dot.max(0.0))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_without_a_vector_have_no_cosine() {
        let (x, y): (Vector, Vector) = ([1.0, 0.0].into(), [0.0, 1.0].into());
        let index = DenseIndex::build([Some(&x), None, Some(&y)]);
        assert_eq!(index.filled(), 2);
        assert_eq!(index.cosines(&[1.0, 0.0]), [Some(1.0), None, Some(0.0)]);
        assert_eq!(index.cosines(&[1.0]), [None, None, None]);
    }
}
