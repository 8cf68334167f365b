//! BM25F over a few thousand documents with a handful of fields.
//!
//! Own code, because what is needed is 100 lines: the collection fits in memory, is rebuilt as a whole when a server's
//! tools change (tens of milliseconds), and both the weights of the fields and the coverage of a question by a document
//! must be at hand; a search engine library brings segments, a query language and files, and hides the latter.
//!
//! Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3.6: the
//! term frequencies of the fields are normalised by each field's length and summed with weights *before* saturation.

use std::collections::{BTreeMap, HashMap};

use super::analysis::{self, QueryTerm};

/// How much a field counts and how much its length is held against it.
#[derive(Debug, Clone, Copy)]
pub struct FieldWeight {
    /// The weight of one occurrence.
    pub weight: f32,
    /// From 0 (length is ignored) to 1 (frequency is relative to length).
    pub length_normalisation: f32,
    /// How well a term is covered if it occurs in this field, from 0 to 1.
    pub coverage: f32,
}

/// The fields of a document, each as text.
pub type FieldTexts<'a, const FIELDS: usize> = [std::borrow::Cow<'a, str>; FIELDS];

/// Weighted term frequency at which a term counts half of what it can.
const SATURATION: f32 = 1.2;

/// Documents of ordinary tool descriptions that are imagined beside the real ones when terms are weighed for coverage:
/// with three servers registered, a word that occurs in two tools is still no common word.
const BACKGROUND_DOCUMENTS: f32 = 1_000.0;

#[derive(Debug, Default)]
struct TermEntry {
    inverse_document_frequency: f32,
    coverage_weight: f32,
    /// Ascending by document.
    postings: Vec<Posting>,
}

#[derive(Debug, Clone, Copy)]
struct Posting {
    document: u32,
    /// The saturated, weighted frequency: from 0 to 1.
    impact: f32,
    /// The best coverage among the fields in which the term occurs.
    coverage: f32,
}

/// An immutable inverted index.
#[derive(Debug, Default)]
pub struct LexicalIndex {
    terms: HashMap<String, TermEntry>,
    documents: usize,
}

impl LexicalIndex {
    /// Indexes documents; their positions are their numbers.
    pub fn build<const FIELDS: usize>(
        weights: &[FieldWeight; FIELDS],
        documents: &[[Vec<String>; FIELDS]],
    ) -> Self {
        let mean_lengths = mean_lengths(documents);
        let mut terms: HashMap<String, TermEntry> = HashMap::new();
        for (number, fields) in documents.iter().enumerate() {
            for (term, posting) in postings_of(number as u32, fields, weights, &mean_lengths) {
                terms.entry(term).or_default().postings.push(posting);
            }
        }
        let total = documents.len() as f32;
        for entry in terms.values_mut() {
            let containing = entry.postings.len() as f32;
            entry.inverse_document_frequency = (1.0 + (total - containing + 0.5) / (containing + 0.5)).ln();
            entry.coverage_weight = coverage_weight(total, containing);
        }
        Self {
            terms,
            documents: documents.len(),
        }
    }

    /// The score of every document for a question. Zero: no term in common.
    pub fn scores(&self, question: &[QueryTerm]) -> Vec<f32> {
        let mut scores = vec![0.0; self.documents];
        for query_term in question {
            let Some(entry) = self.terms.get(&query_term.term) else {
                continue;
            };
            let weight = entry.inverse_document_frequency * (query_term.occurrences as f32).sqrt();
            for posting in &entry.postings {
                scores[posting.document as usize] += weight * posting.impact;
            }
        }
        scores
    }

    /// How much of a document's name a question says, from 0 to 1; `name` are the name's terms.
    pub fn name_coverage(&self, question: &[QueryTerm], name: &[String]) -> f32 {
        let weight = |term: &String| {
            self.terms.get(term).map_or_else(
                || coverage_weight(self.documents as f32, 0.0),
                |e| e.coverage_weight,
            )
        };
        let all: f32 = name.iter().map(weight).sum();
        let said: f32 = name
            .iter()
            .filter(|term| question.iter().any(|q| q.term == **term))
            .map(weight)
            .sum();
        if all == 0.0 { 0.0 } else { said / all }
    }

    /// How much of what a question asks for a document speaks of, from 0 to 1. Values (names, numbers, quoted text)
    /// count where the document has them and are not held against it where it has not.
    pub fn coverage(&self, question: &[QueryTerm], document: u32) -> f32 {
        let (mut covered, mut asked) = (0.0, 0.0);
        for query_term in question {
            let entry = self.terms.get(&query_term.term);
            let coverage = entry
                .and_then(|entry| entry.find(document))
                .map_or(0.0, |posting| posting.coverage);
            if query_term.is_value && coverage == 0.0 {
                continue;
            }
            let weight = entry.map_or_else(
                || coverage_weight(self.documents as f32, 0.0),
                |e| e.coverage_weight,
            );
            covered += weight * coverage;
            asked += weight;
        }
        if asked == 0.0 { 0.0 } else { covered / asked }
    }
}

impl TermEntry {
    fn find(&self, document: u32) -> Option<&Posting> {
        let at = self
            .postings
            .binary_search_by_key(&document, |posting| posting.document)
            .ok()?;
        self.postings.get(at)
    }
}

fn coverage_weight(documents: f32, containing: f32) -> f32 {
    (1.0 + (documents + BACKGROUND_DOCUMENTS - containing) / (containing + 1.0)).ln()
}

fn mean_lengths<const FIELDS: usize>(documents: &[[Vec<String>; FIELDS]]) -> [f32; FIELDS] {
    std::array::from_fn(|field| {
        let (filled, terms) = documents
            .iter()
            .map(|fields| fields[field].len())
            .filter(|&length| length > 0)
            .fold((0usize, 0usize), |(filled, terms), length| {
                (filled + 1, terms + length)
            });
        if filled == 0 {
            1.0
        } else {
            terms as f32 / filled as f32
        }
    })
}

fn postings_of<const FIELDS: usize>(
    document: u32,
    fields: &[Vec<String>; FIELDS],
    weights: &[FieldWeight; FIELDS],
    mean_lengths: &[f32; FIELDS],
) -> BTreeMap<String, Posting> {
    let mut postings: BTreeMap<String, Posting> = BTreeMap::new();
    for ((terms, weight), mean_length) in fields.iter().zip(weights).zip(mean_lengths) {
        let relative_length = terms.len() as f32 / mean_length;
        let b = weight.length_normalisation;
        let per_occurrence = weight.weight / (1.0 - b + b * relative_length);
        for term in terms {
            let posting = postings.entry(term.clone()).or_insert(Posting {
                document,
                impact: 0.0,
                coverage: 0.0,
            });
            posting.impact += per_occurrence;
            posting.coverage = posting.coverage.max(weight.coverage);
        }
    }
    for posting in postings.values_mut() {
        posting.impact /= SATURATION + posting.impact;
    }
    postings
}

/// The terms of each field.
pub fn analysed<const FIELDS: usize>(texts: FieldTexts<'_, FIELDS>) -> [Vec<String>; FIELDS] {
    texts.map(|text| analysis::terms(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::index::analysis::query_terms;

    const NAME_AND_TEXT: [FieldWeight; 2] = [
        FieldWeight {
            weight: 3.0,
            length_normalisation: 0.3,
            coverage: 1.0,
        },
        FieldWeight {
            weight: 1.5,
            length_normalisation: 0.6,
            coverage: 0.8,
        },
    ];

    fn index(documents: &[(&str, &str)]) -> LexicalIndex {
        let documents: Vec<_> = documents
            .iter()
            .map(|&(name, text)| analysed([name.into(), text.into()]))
            .collect();
        LexicalIndex::build(&NAME_AND_TEXT, &documents)
    }

    #[test]
    fn a_rare_word_in_a_name_beats_a_common_word_in_a_text() {
        let index = index(&[
            ("convert_time", "between zones"),
            ("list_files", "time of change"),
            ("read", "a file"),
        ]);
        let scores = index.scores(&query_terms("convert the time"));
        assert!(scores[0] > scores[1] && scores[1] > scores[2]);
    }

    #[test]
    fn coverage_does_not_count_absent_values() {
        let index = index(&[("get_current_time", "in a timezone")]);
        let with_value = index.coverage(&query_terms("current time of Tokyo"), 0);
        let with_foreign_intent = index.coverage(&query_terms("current time of arrival"), 0);
        assert!(with_value > 0.99, "{with_value}");
        assert!(with_foreign_intent < 0.8, "{with_foreign_intent}");
    }
}
