//! How links behave.

use std::time::Duration;

use troupe_protocol::cluster::frame::{ClusterTiming, WIRE_VERSION_MAX, WIRE_VERSION_MIN};

/// How links behave. The defaults suit one machine and a data centre alike.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// A peer of which something is expected and nothing is heard for so long is taken for dead, in milliseconds.
    pub silence_ms_max: u64,
    /// How often a peer of which nothing is expected is asked for a sign of life, in milliseconds.
    pub idle_ping_interval_ms: u64,
    /// Bytes under way to a peer that it has not taken yet.
    pub window_bytes: u32,
    /// The longest pause before a peer is dialled again, in milliseconds.
    pub redial_ms_max: u64,
    /// Versions of the wire to offer, from oldest to newest.
    pub wire_versions: (u16, u16),
    /// What peers must have alike, if anything.
    pub timing: Option<ClusterTiming>,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            silence_ms_max: 500,
            idle_ping_interval_ms: 2_500,
            window_bytes: 1024 * 1024,
            redial_ms_max: 2_000,
            wire_versions: (WIRE_VERSION_MIN, WIRE_VERSION_MAX),
            timing: None,
        }
    }
}

/// From TCP connection to open link, and each step of it.
pub(super) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Handshakes under way at the same time; one more ends the oldest.
pub(super) const HANDSHAKES_MAX: usize = 128;
/// Streams for HTTP that may wait to be served.
pub(super) const HTTP_STREAMS_MAX: usize = 256;
/// The pause before the first repeated attempt to dial.
pub(super) const REDIAL_MS_MIN: u64 = 50;
/// How much later than it would the node with the higher id dials: the other one does so at once, and two at the same time
/// would end each other's.
pub(super) const HIGHER_ID_DIALS_AFTER: Duration = Duration::from_secs(2);
/// A link that was open for so long was no failure: the next attempt follows at once.
pub(super) const PROVEN_AFTER: Duration = Duration::from_secs(2);
/// Frames up to this size go ahead of larger ones.
pub(super) const SMALL_BYTES_MAX: usize = 4 * 1024;
/// Larger frames travel in pieces of this size, so that small ones can go in between: with what goes around it, a TLS
/// record.
pub(super) const PIECE_BYTES_MAX: usize = 16 * 1024 - 128;
/// Pieces of large frames under way that the peer has not taken, in bytes, at least: enough for a fast local network,
/// little enough to keep nothing waiting (twice as much doubles what a small ask waits behind large ones).
pub(super) const BULK_FLIGHT_BYTES_MIN: usize = 33 * 1024;
/// What a peer may send in one round trip: the rate for which the bytes under way are made to suffice.
pub(super) const BULK_BYTES_PER_US: usize = 500;
/// Questions of one peer being answered; one more is refused.
pub(super) const SERVING_MAX: usize = 4_096;
/// Bytes of questions of one peer being answered; more are refused.
pub(super) const SERVING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of parts of one stream that its reader has not taken yet.
pub(super) const STREAM_BYTES_MAX: usize = 256 * 1024;
/// Bytes a part counts for at least, so that their number is bounded too.
pub(super) const PART_BYTES_MIN: usize = 64;
