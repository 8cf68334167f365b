//! Links over real TCP on loopback: several nodes in one process.
#![allow(clippy::unwrap_used)]

mod bed;
mod faults;
mod flow;
mod strangers;
mod talk;
