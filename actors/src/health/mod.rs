//! How registered servers fare.
