//! MiniLM-L6-v2 in ONNX Runtime, through fastembed: texts in, vectors of length 1 out. Blocking.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fastembed::{InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};
use ort::environment::Environment;
use parking_lot::Mutex;

use super::files::ModelFiles;
use crate::router::bench::Embed;
use crate::router::index::dense::Vector;

/// Texts that go through the model together. More is not faster on one thread and makes a question wait longer.
pub const BATCH_TEXTS_MAX: usize = 16;
/// Tokens of a text that are read.
const TOKENS_MAX: usize = 256;
/// Threads within one run of the model: with more, a busy machine becomes slower.
const THREADS: usize = 1;

/// ONNX Runtime can be loaded once in a process, and fails when a second environment is made. A failure is not kept:
/// a later attempt with a better file may succeed.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The runtime's library is there but cannot be used.
    #[error("ONNX Runtime in {} cannot be used: {reason} (1.24 or newer is needed)", .path.display())]
    Runtime {
        /// The library.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{} cannot be read: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The model cannot be loaded.
    #[error("the model in {} cannot be loaded: {reason}", .path.display())]
    Model {
        /// Its folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The model failed on a text.
    #[error("the model failed: {0}")]
    Run(String),
}

/// A loaded model.
pub struct EmbeddingModel {
    model: TextEmbedding,
}

impl EmbeddingModel {
    /// Loads the runtime (once in a process) and the model: some 0.2 s and 80 MB.
    pub fn load(files: &ModelFiles) -> Result<Self, ModelError> {
        let environment = environment(&files.runtime)?;
        let onnx_file = read(&files.model_file("model.onnx"))?;
        let tokenizer_files = TokenizerFiles {
            tokenizer_file: read(&files.model_file("tokenizer.json"))?,
            config_file: read(&files.model_file("config.json"))?,
            special_tokens_map_file: read(&files.model_file("special_tokens_map.json"))?,
            tokenizer_config_file: read(&files.model_file("tokenizer_config.json"))?,
        };
        let definition =
            UserDefinedEmbeddingModel::new(onnx_file, tokenizer_files).with_pooling(Pooling::Mean);
        let options = InitOptionsUserDefined::new()
            .with_environment(environment)
            .with_max_length(TOKENS_MAX)
            .with_intra_threads(THREADS);
        let model =
            guarded(|| TextEmbedding::try_new_from_user_defined(definition, options)).map_err(|reason| {
                ModelError::Model {
                    path: files.model_folder.clone(),
                    reason,
                }
            })?;
        Ok(Self { model })
    }

    /// The vectors of these texts, in their order.
    pub fn embed(&mut self, texts: &[String]) -> Result<Vec<Vector>, ModelError> {
        let vectors = guarded(|| self.model.embed(texts, Some(BATCH_TEXTS_MAX))).map_err(ModelError::Run)?;
        Ok(vectors.into_iter().map(Vector::from).collect())
    }
}

impl Embed for EmbeddingModel {
    fn embed(&mut self, texts: &[String]) -> Result<Vec<Vector>, String> {
        EmbeddingModel::embed(self, texts).map_err(|error| error.to_string())
    }
}

fn environment(library: &Path) -> Result<Environment, ModelError> {
    let mut made = ENVIRONMENT.lock();
    if let Some(environment) = made.as_ref() {
        return Ok(environment.clone());
    }
    let environment = guarded(|| -> Result<Environment, String> {
        let builder = ort::init_from(library).map_err(|error| error.to_string())?;
        builder
            .with_name("troupe")
            .with_telemetry(false)
            .build()
            .map_err(|error| error.to_string())
    })
    .map_err(|reason| ModelError::Runtime {
        path: library.to_path_buf(),
        reason,
    })?;
    Ok(made.insert(environment).clone())
}

/// The libraries below panic on some broken files; a model that cannot be used must not take the node with it.
fn guarded<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("panicked".to_owned()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|error| ModelError::File {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}
