//! What can be seen of live connections to servers.
