//! Who a node is, and how it proves that it belongs to its cluster.
