//! Texts → vectors, on a thread of its own behind a bounded channel.
//!
//! [`Embedder`] is there from the first moment on: while the model is being loaded, or when a file is missing, it
//! answers that it has no vectors and [`Embedder::status`] says why; whoever asks goes on by words alone. Documents are
//! sent a batch at a time, the next when the last is back, so that a question never waits for more than one batch.

pub mod files;
pub mod model;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use troupe_protocol::error::Code;
use troupe_protocol::routing::{ModelState, ModelStatus};

use crate::router::index::dense::Vector;
use files::ModelFiles;
use model::{BATCH_TEXTS_MAX, EmbeddingModel, ModelError};

/// Jobs that may wait for the model. Questions beyond are routed by words alone.
const JOBS_WAITING_MAX: usize = 64;

/// Why there is no vector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// The model is not ready (yet).
    #[error("the embedding model is not ready: {0}")]
    NotReady(String),
    /// Too many jobs wait.
    #[error("the embedding model is busy: {JOBS_WAITING_MAX} jobs are waiting")]
    Overloaded,
    /// It took too long.
    #[error("the embedding model did not answer in time")]
    DeadlineExceeded,
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl EmbedError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotReady(_) => Code::ModelMissing,
            Self::Overloaded => Code::TooManyRequests,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Model(_) => Code::Internal,
        }
    }
}

struct Job {
    texts: Vec<String>,
    reply: oneshot::Sender<Result<Vec<Vector>, ModelError>>,
}

/// The handle to the model's thread. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Embedder {
    jobs: SyncSender<Job>,
    status: Arc<ArcSwap<ModelStatus>>,
    state: watch::Receiver<ModelState>,
}

impl Embedder {
    /// Begins to load the model from the first of these folders that has it; returns at once.
    pub fn start(folders: Vec<PathBuf>) -> Self {
        let (jobs, waiting) = sync_channel::<Job>(JOBS_WAITING_MAX);
        let (state_sender, state) = watch::channel(ModelState::Loading);
        let status = Arc::new(ArcSwap::from_pointee(ModelStatus {
            state: ModelState::Loading,
            detail: "looking for the embedding model".to_owned(),
        }));
        let publish = Publisher {
            status: Arc::clone(&status),
            state: state_sender,
        };
        let thread = std::thread::Builder::new().name("embedding".to_owned());
        let for_failure = Arc::clone(&status);
        if let Err(error) = thread.spawn(move || work(&folders, &waiting, &publish)) {
            let detail = format!("the embedding thread could not be started: {error}");
            for_failure.store(Arc::new(ModelStatus {
                state: ModelState::Failed,
                detail,
            }));
        }
        Self { jobs, status, state }
    }

    /// How the model fares.
    pub fn status(&self) -> Arc<ModelStatus> {
        self.status.load_full()
    }

    /// Whether texts can be embedded.
    pub fn is_ready(&self) -> bool {
        *self.state.borrow() == ModelState::Ready
    }

    /// Follows the model's state; it changes at most once, from loading to something else.
    pub fn watch_state(&self) -> watch::Receiver<ModelState> {
        self.state.clone()
    }

    /// The vector of a question, within this time.
    pub async fn embed_question(&self, text: &str, within: Duration) -> Result<Vector, EmbedError> {
        let vectors = tokio::time::timeout(within, self.embed_batch(vec![text.to_owned()]))
            .await
            .map_err(|_| EmbedError::DeadlineExceeded)??;
        vectors
            .into_iter()
            .next()
            .ok_or_else(|| ModelError::Run("no vector came back".to_owned()).into())
    }

    /// The vectors of up to [`BATCH_TEXTS_MAX`] documents; callers send the next batch when this one is back.
    pub async fn embed_batch(&self, texts: Vec<String>) -> Result<Vec<Vector>, EmbedError> {
        debug_assert!(texts.len() <= BATCH_TEXTS_MAX);
        if !self.is_ready() {
            return Err(EmbedError::NotReady(self.status().detail.clone()));
        }
        let (reply, answer) = oneshot::channel();
        self.jobs
            .try_send(Job { texts, reply })
            .map_err(|error| match error {
                TrySendError::Full(_) => EmbedError::Overloaded,
                TrySendError::Disconnected(_) => EmbedError::NotReady("its thread has ended".to_owned()),
            })?;
        let result = answer
            .await
            .map_err(|_| EmbedError::NotReady("its thread has ended".to_owned()))?;
        Ok(result?)
    }
}

struct Publisher {
    status: Arc<ArcSwap<ModelStatus>>,
    state: watch::Sender<ModelState>,
}

impl Publisher {
    fn publish(&self, state: ModelState, detail: String) {
        self.status.store(Arc::new(ModelStatus { state, detail }));
        // No receiver left means nobody wants to know.
        let _ = self.state.send(state);
    }
}

fn work(folders: &[PathBuf], waiting: &Receiver<Job>, publish: &Publisher) {
    let files = match ModelFiles::find(folders) {
        Ok(files) => files,
        Err(missing) => {
            return publish.publish(
                ModelState::Missing,
                format!("tools are found by their words only: {missing}"),
            );
        }
    };
    let mut model = match EmbeddingModel::load(&files) {
        Ok(model) => model,
        Err(error) => {
            return publish.publish(
                ModelState::Failed,
                format!("tools are found by their words only: {error}"),
            );
        }
    };
    publish.publish(
        ModelState::Ready,
        format!("MiniLM-L6-v2 from {}", files.model_folder.display()),
    );
    while let Ok(job) = waiting.recv() {
        if job.reply.is_closed() {
            continue; // whoever asked has given up
        }
        // A closed channel means the asker gave up meanwhile.
        let _ = job.reply.send(model.embed(&job.texts));
    }
}

#[cfg(test)]
mod tests;
