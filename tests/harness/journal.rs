//! The journal of a `journal-server` (tests/servers/journal): what its processes say of their lives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::history::order::Life;

/// The journal that all processes of one server write.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub at_us: u64,
    pub process: u32,
    pub event: String,
    pub text: String,
}

impl Journal {
    /// The journal of the server of this name, in a folder that outlives the nodes.
    pub fn new(folder: &Path, server: &str) -> Self {
        Self {
            path: folder.join(format!("{server}.journal")),
        }
    }

    /// The command line of the server. `program` is `env!("CARGO_BIN_EXE_journal-server")`.
    pub fn command(&self, program: &str, server: &str) -> Vec<String> {
        let path = self.path.display().to_string();
        vec![program.to_owned(), path, server.to_owned()]
    }

    /// Everything written so far.
    pub fn entries(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().filter_map(entry).collect()
    }

    /// How often a text was noted: more than once means that a call was repeated.
    pub fn notes(&self) -> BTreeMap<String, usize> {
        let mut notes = BTreeMap::new();
        for entry in self.entries() {
            if entry.event == "call" {
                *notes.entry(entry.text).or_default() += 1;
            }
        }
        notes
    }

    /// The life of each process: from its start to its last line.
    pub fn lives(&self) -> Vec<Life> {
        self.spans(|_| true)
    }

    /// From the first to the last call that each process served.
    pub fn serving(&self) -> Vec<Life> {
        self.spans(|entry| entry.event == "call")
    }

    fn spans(&self, counts: impl Fn(&Entry) -> bool) -> Vec<Life> {
        let mut lives: BTreeMap<u32, Life> = BTreeMap::new();
        for entry in self.entries().into_iter().filter(|entry| counts(entry)) {
            let life = lives.entry(entry.process).or_insert(Life {
                process: entry.process,
                from_us: entry.at_us,
                until_us: entry.at_us,
            });
            life.until_us = life.until_us.max(entry.at_us);
        }
        lives.into_values().collect()
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut parts = line.splitn(4, ' ');
    Some(Entry {
        at_us: parts.next()?.parse().ok()?,
        process: parts.next()?.parse().ok()?,
        event: parts.next()?.to_owned(),
        text: parts.next().unwrap_or_default().to_owned(),
    })
}
