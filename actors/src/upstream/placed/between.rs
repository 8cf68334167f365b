//! What comes between a request of another node and its reply: notifications, and what a legacy server asks of the
//! client there.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use troupe_protocol::jsonrpc::{RawMessage, RawReply};

use super::question::Part;
use crate::cluster::Parts;
use crate::cluster::pieces::cut;
use crate::upstream::{self, UpstreamError};

/// What comes before the reply to a request of another node.
pub(super) struct Between {
    pub notifications: mpsc::Receiver<RawMessage>,
    pub questions: mpsc::Receiver<upstream::Question>,
    /// Nothing if the other node can be asked nothing.
    pub asking: Option<Asking>,
}

impl Between {
    /// Waits for the reply and passes on what comes before it. What is asked and not answered then is refused.
    pub async fn until(
        mut self,
        request: impl Future<Output = Result<RawReply, UpstreamError>>,
        parts: &Parts,
    ) -> Result<RawReply, UpstreamError> {
        let mut request = std::pin::pin!(request);
        let reply = loop {
            tokio::select! {
                biased;
                Some(message) = self.notifications.recv() => tell(message, parts).await,
                Some(question) = self.questions.recv(), if self.asking.is_some() => {
                    if let Some(asking) = &mut self.asking {
                        asking.ask(question, parts).await;
                    }
                }
                reply = &mut request => break reply,
            }
        };
        while let Ok(message) = self.notifications.try_recv() {
            tell(message, parts).await;
        }
        reply
    }
}

async fn tell(message: RawMessage, parts: &Parts) {
    let text = message.into_text().into_string();
    if cut(&text) == text.len() {
        // Who no longer listens has cancelled, which ends this from outside.
        let _ = parts.send(&Part::Notification(text)).await;
    }
}

/// What servers have asked of clients at other nodes, by the asker's name for the request and the question's number.
#[derive(Default)]
pub(super) struct Asked(Mutex<HashMap<(u128, u32), upstream::Question>>);

impl Asked {
    pub fn take(&self, request: u128, number: u32) -> Option<upstream::Question> {
        self.0.lock().remove(&(request, number))
    }
}

/// The questions of one request. When it ends, none of them is kept.
pub(super) struct Asking {
    asked: Arc<Asked>,
    request: u128,
    next_number: u32,
}

impl Asking {
    pub fn new(asked: &Arc<Asked>, request: u128) -> Self {
        Self {
            asked: Arc::clone(asked),
            request,
            next_number: 0,
        }
    }

    async fn ask(&mut self, question: upstream::Question, parts: &Parts) {
        let number = self.next_number;
        self.next_number += 1;
        let params = question.params.as_ref().map(|params| params.get().to_owned());
        if params.as_ref().is_some_and(|params| cut(params) < params.len()) {
            question.fail("the question is too long for its client, who is at another node");
            return;
        }
        let part = Part::Question {
            number,
            method: question.method.clone(),
            params,
            id: question.id().get().to_owned(),
        };
        self.asked.0.lock().insert((self.request, number), question);
        let _ = parts.send(&part).await;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let left: Vec<upstream::Question> = {
            let mut asked = self.asked.0.lock();
            let numbers = 0..self.next_number;
            numbers
                .filter_map(|number| asked.remove(&(self.request, number)))
                .collect()
        };
        // Each is answered as it goes, without the lock.
        drop(left);
    }
}
