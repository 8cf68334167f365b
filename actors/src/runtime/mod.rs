//! The layer over ractor.
