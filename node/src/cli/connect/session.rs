//! The session of a legacy client: kept so that it can be made again when the node that had it is gone.

use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;

use super::line::Line;

/// A session that a node gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Session {
    pub id: HeaderValue,
    /// The revision that client and server agreed on.
    pub version: Option<HeaderValue>,
}

/// The session, and how it was begun.
#[derive(Debug, Default)]
pub struct Sessions {
    kept: Mutex<Kept>,
    /// Held while a session is made again, so that many requests that meet a forgotten one make one.
    pub renewal: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    current: Option<Arc<Session>>,
    initialize: Option<Line>,
    initialized: Option<Line>,
}

impl Sessions {
    pub fn current(&self) -> Option<Arc<Session>> {
        self.kept.lock().current.clone()
    }

    /// A session was given in answer to this line.
    pub fn begin(&self, initialize: &Line, session: Session) {
        let mut kept = self.kept.lock();
        kept.current = Some(Arc::new(session));
        kept.initialize = Some(initialize.clone());
    }

    /// The client has begun to use it.
    pub fn note_initialized(&self, line: &Line) {
        self.kept.lock().initialized = Some(line.clone());
    }

    /// The lines that began the session.
    pub fn beginning(&self) -> Option<(Line, Option<Line>)> {
        let kept = self.kept.lock();
        Some((kept.initialize.clone()?, kept.initialized.clone()))
    }

    pub fn end(&self) -> Option<Arc<Session>> {
        self.kept.lock().current.take()
    }
}
