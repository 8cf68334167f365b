//! Placement: which addresses this node may act for, and telling the hosts of placed actors when that changes.
//!
//! # Layout
//! - `view`: [`Whereabouts`], and the picture from which they are read without I/O
//! - `hosts`: what runs placed actors here; `actor`: tells them of each change

mod actor;
mod hosts;
mod view;

pub(in crate::cluster) use actor::child;
pub(in crate::cluster) use hosts::Hosts;
pub use hosts::PlacedCounts;
pub use view::{Nowhere, Whereabouts};
pub(in crate::cluster) use view::{Owners, View};
