//! Several logs in one process, over a network in memory, each with a real store.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod alone;
mod backup;
mod disk;
mod faults;
mod figures;
mod growth;
mod installing;
mod kill;
mod stand;
mod world;
