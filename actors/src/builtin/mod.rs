//! The server `troupe` that every node offers.
