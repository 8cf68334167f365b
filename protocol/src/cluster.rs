//! The cluster: members, epochs, addresses, and what its nodes tell each other and people about it.
//!
//! - [`member`]: nodes as the log knows them, and the membership at an epoch
//! - [`address`]: where placed actors belong (rendezvous hashing)
//! - [`frame`]: what two nodes say over a link, as bytes
//! - [`varint`]: integers of as many bytes as they need
//! - [`status`]: what people see of the cluster

pub mod address;
pub mod frame;
pub mod member;
pub mod status;
pub mod varint;

pub use address::{Address, EntityKind};
pub use member::{Epoch, Generation, Member, MemberState, Membership, NodeName, Role, is_local_only};
pub use status::{ClusterStatus, ClusterWarning, LinkState, LinkStatus, LogStatus, MemberStatus};
