//! Shapes of the administration API that belong to no other module.

use serde::{Deserialize, Serialize};

/// How the node stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ts_rs::TS, utoipa::ToSchema)]
#[ts(export)]
pub struct NodeStatus {
    /// The node.
    pub node_id: crate::id::NodeId,
}
