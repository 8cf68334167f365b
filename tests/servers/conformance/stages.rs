//! What tools noted between two rounds. The client only ever sees a handle, so there is nothing to tamper with.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

/// When more are kept, all are forgotten: their calls begin anew.
const KEPT_MAX: usize = 10_000;

#[derive(Default)]
pub struct Stages {
    by_handle: Mutex<HashMap<String, &'static str>>,
    secret: RandomState,
}

impl Stages {
    /// Keeps a stage; answers its handle.
    pub fn keep(&self, stage: &'static str) -> String {
        let mut by_handle = self.by_handle.lock().expect("nobody panics with the lock");
        if by_handle.len() >= KEPT_MAX {
            by_handle.clear();
        }
        let handle = format!(
            "{}-{:016x}",
            by_handle.len(),
            self.secret.hash_one((stage, by_handle.len()))
        );
        by_handle.insert(handle.clone(), stage);
        handle
    }

    /// The stage of a handle that was given here.
    pub fn of(&self, handle: &str) -> Option<&'static str> {
        self.by_handle
            .lock()
            .expect("nobody panics with the lock")
            .get(handle)
            .copied()
    }
}
