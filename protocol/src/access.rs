//! Principals, roles, keys, secrets' metadata and audit records.
