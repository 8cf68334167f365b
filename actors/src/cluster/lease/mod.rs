//! The lease: who may act at all, and when a former owner surely does no more.

mod clock;

pub(in crate::cluster) use clock::LeaseClock;
