//! One actor per conversation.
