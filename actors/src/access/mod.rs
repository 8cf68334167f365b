//! Users' keys, roles and browser sessions.
