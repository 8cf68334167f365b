//! Machines whose wall clock and disk a test sets while their nodes run.
//!
//! Both are the whole machine's and nobody's to change who has no privilege. So a small library (`machine/faults.c`,
//! compiled here with `cc`) is loaded into the node: it adds to the wall clock and makes syncs to the disk take longer, as
//! a file says that it shares with the test. Monotonic clocks and processes that the node starts are left alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::node::NodeOptions;

const SOURCE: &str = include_str!("machine/faults.c");
/// Where in the file each figure lies: as `struct faults` has them.
const CLOCK_AHEAD_S: u64 = 0;
const SYNC_TAKES_MS: u64 = 8;
const FILE_BYTES: u64 = 16;

/// The machines of a cluster's nodes, by number. Cheap to clone; all clones are the same machines.
#[derive(Debug, Clone)]
pub struct Machines {
    folder: Arc<TempDir>,
}

impl Machines {
    /// Machines with the clock and the disk that this one has.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("faults.c");
        std::fs::write(&source, SOURCE).expect("the library's source");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"])
            .arg(library(folder.path()))
            .arg(&source)
            .arg("-ldl")
            .output()
            .expect("cc runs: it links Rust programs too");
        assert!(
            compiled.status.success(),
            "machine/faults.c: {}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        Self {
            folder: Arc::new(folder),
        }
    }

    /// The node of this number runs on its machine.
    pub fn put(&self, node: usize, options: NodeOptions) -> NodeOptions {
        let file = self.file(node);
        let created = File::create(&file).and_then(|file| file.set_len(FILE_BYTES));
        created.expect("the machine's file");
        options
            .environment("LD_PRELOAD", &library(self.folder.path()).display().to_string())
            .environment("TROUPE_TEST_FAULTS", &file.display().to_string())
    }

    /// From now on the machine's wall clock is ahead of the real one by so much, or behind.
    pub fn set_clock(&self, node: usize, ahead_s: i64) {
        self.set(node, CLOCK_AHEAD_S, ahead_s);
    }

    /// From now on each sync to the machine's disk takes so much longer.
    pub fn set_sync(&self, node: usize, longer: Duration) {
        let ms = i64::try_from(longer.as_millis()).expect("a test ends");
        self.set(node, SYNC_TAKES_MS, ms);
    }

    fn set(&self, node: usize, at: u64, figure: i64) {
        let file = File::options().write(true).open(self.file(node));
        let written = file.and_then(|file| file.write_all_at(&figure.to_ne_bytes(), at));
        written.unwrap_or_else(|error| panic!("the machine of node-{node}: {error}"));
    }

    fn file(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}.faults"))
    }
}

impl Default for Machines {
    fn default() -> Self {
        Self::new()
    }
}

fn library(folder: &Path) -> PathBuf {
    folder.join("faults.so")
}
