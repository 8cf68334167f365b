//! Reading request bodies within bounds: how large one may be, how slowly it may come, how much all may hold together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use troupe_protocol::error::Code;

use super::problem::{ApiError, ApiResult};

/// The bodies of all requests in hand may hold so many bytes together. One connection may take a large body, but
/// thousands at the same time may not take all the memory there is.
pub const BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The budget is kept in units of so many bytes.
const UNIT_BYTES: usize = 1024;
/// Largest body of who has not shown who he is: below the budget's unit, so that strangers can hold none of it.
pub const STRANGERS_BYTES_MAX: usize = UNIT_BYTES - 1;

/// Of a body that is too large, so much is read and thrown away: a client that is in the middle of sending would see
/// its connection reset instead of the refusal.
const DRAINED_BYTES_MAX: usize = 64 * 1024 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
/// A client that sends nothing for this long is waiting for the answer.
const DRAIN_PAUSE_MAX: Duration = Duration::from_millis(300);

/// What the bodies of all requests in hand may hold together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    /// A budget of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes_max / UNIT_BYTES)))
    }
}

impl Default for BodyBudget {
    fn default() -> Self {
        Self::new(BODIES_BYTES_MAX)
    }
}

/// How much of a body is taken, and in what time.
#[derive(Debug)]
pub struct BodyLimits<'a> {
    /// Bytes; one more is refused.
    pub bytes_max: usize,
    /// From the headers to the last byte.
    pub timeout: Duration,
    /// The setting that raises `bytes_max`, or whom it is for; for the refusal.
    pub because: &'static str,
    /// What all bodies may hold together.
    pub budget: &'a BodyBudget,
}

/// A whole body. It counts against the budget until it is dropped.
#[derive(Debug)]
pub struct WholeBody {
    bytes: Bytes,
    _held: Held,
}

impl std::ops::Deref for WholeBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a whole body within limits. Only what has arrived is kept and counted, not what was announced.
///
/// # Errors
/// `BodyTooLarge` (413), `RequestTimeout` (408), `TooManyRequests` (429) when the budget is spent, or `MalformedJson`
/// (400) when the body ends too early.
pub async fn read_body(request: Request, limits: &BodyLimits<'_>) -> ApiResult<WholeBody> {
    let (parts, body) = request.into_parts();
    read_body_of(&parts.headers, body, limits).await
}

/// As [`read_body`], where the headers are needed afterwards.
pub async fn read_body_of(headers: &HeaderMap, body: Body, limits: &BodyLimits<'_>) -> ApiResult<WholeBody> {
    let announced = content_length(headers);
    let waits_for_permission = headers.contains_key(header::EXPECT);
    let mut chunks = body.into_data_stream();
    let mut bytes = Kept::Nothing;
    let mut held = Held::default();
    let is_announced_too_large = announced.is_some_and(|length| length > limits.bytes_max as u64);
    let reading = async {
        if is_announced_too_large {
            return Err(too_large(announced, limits));
        }
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| broken_off(&error))?;
            if bytes.len() + chunk.len() > limits.bytes_max {
                return Err(too_large(None, limits));
            }
            held.grow_to(bytes.len() + chunk.len(), limits.budget)?;
            bytes.push(chunk);
        }
        Ok(())
    };
    let read = timeout(limits.timeout, reading)
        .await
        .unwrap_or_else(|_| Err(too_slow(limits)));
    match read {
        Ok(()) => Ok(WholeBody {
            bytes: bytes.into_bytes(),
            _held: held,
        }),
        Err(refusal) => {
            drop((bytes, held));
            if refusal.problem().status == 413 && !waits_for_permission {
                drain(chunks).await;
            }
            Err(refusal)
        }
    }
}

/// What has been read of a body. Most bodies come in one piece, which is then not copied.
enum Kept {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Kept {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, chunk: Bytes) {
        *self = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Self::One(chunk),
            Self::One(first) => {
                let mut bytes = BytesMut::with_capacity(2 * (first.len() + chunk.len()));
                bytes.extend_from_slice(&first);
                bytes.extend_from_slice(&chunk);
                Self::Many(bytes)
            }
            Self::Many(mut bytes) => {
                bytes.extend_from_slice(&chunk);
                Self::Many(bytes)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

/// The part of the budget that one body has taken.
#[derive(Debug, Default)]
struct Held(Option<OwnedSemaphorePermit>);

impl Held {
    fn grow_to(&mut self, bytes: usize, budget: &BodyBudget) -> ApiResult<()> {
        let has = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        // A small body costs nothing: the connection's own buffer is larger.
        let wanted = (bytes / UNIT_BYTES).saturating_sub(has);
        if wanted == 0 {
            return Ok(());
        }
        let more = u32::try_from(wanted)
            .ok()
            .and_then(|wanted| Arc::clone(&budget.0).try_acquire_many_owned(wanted).ok());
        let Some(more) = more else {
            let detail = "the bodies of the requests in hand take all the memory that is set aside for them; try again";
            return Err(ApiError::new(Code::TooManyRequests, detail));
        };
        match &mut self.0 {
            Some(held) => held.merge(more),
            None => self.0 = Some(more),
        }
        Ok(())
    }
}

fn too_large(length: Option<u64>, limits: &BodyLimits<'_>) -> ApiError {
    let given = length.map_or_else(String::new, |length| format!("{length} bytes; "));
    let detail = format!(
        "the body has {given}at most {} are taken ({})",
        limits.bytes_max, limits.because
    );
    ApiError::new(Code::BodyTooLarge, detail)
}

fn too_slow(limits: &BodyLimits<'_>) -> ApiError {
    let within_ms = limits.timeout.as_millis();
    ApiError::new(
        Code::RequestTimeout,
        format!("the body did not arrive within {within_ms} ms (edge.body_timeout_ms)"),
    )
}

fn broken_off(error: &dyn std::error::Error) -> ApiError {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    ApiError::new(
        Code::MalformedJson,
        format!("the body ended too early: {innermost}"),
    )
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn drain(mut chunks: axum::body::BodyDataStream) {
    let discard = async {
        let mut drained_bytes = 0;
        while let Ok(Some(Ok(chunk))) = timeout(DRAIN_PAUSE_MAX, chunks.next()).await {
            drained_bytes += chunk.len();
            if drained_bytes > DRAINED_BYTES_MAX {
                break;
            }
        }
    };
    // However it ends: what matters is that the client had time to hear of the refusal.
    let _ = timeout(DRAIN_TIME_MAX, discard).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::stream;

    fn limits(budget: &BodyBudget) -> BodyLimits<'_> {
        BodyLimits {
            bytes_max: 10_000,
            timeout: Duration::from_secs(5),
            because: "x.bytes_max",
            budget,
        }
    }

    fn in_chunks(sizes: &[usize]) -> Request {
        let chunks: Vec<Result<Bytes, std::io::Error>> =
            sizes.iter().map(|size| Ok(vec![b'x'; *size].into())).collect();
        Request::new(Body::from_stream(stream::iter(chunks)))
    }

    async fn status(request: Request, budget: &BodyBudget) -> u16 {
        read_body(request, &limits(budget))
            .await
            .map_or_else(|error| error.problem().status, |_| 200)
    }

    #[tokio::test]
    async fn what_fits_is_read_whole() {
        let budget = BodyBudget::default();
        for sizes in [&[][..], &[10_000], &[1, 9_999], &[3_000, 3_000, 3_000, 1_000]] {
            let body = read_body(in_chunks(sizes), &limits(&budget)).await.unwrap();
            assert_eq!(body.len(), sizes.iter().sum::<usize>());
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_announced_or_not() {
        let budget = BodyBudget::default();
        assert_eq!(status(in_chunks(&[5_000, 5_001]), &budget).await, 413);
        let mut announced = in_chunks(&[]);
        announced
            .headers_mut()
            .insert(header::CONTENT_LENGTH, 10_001.into());
        assert_eq!(status(announced, &budget).await, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_slow_is_refused() {
        let drip = stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), n + 1))
        });
        assert_eq!(
            status(Request::new(Body::from_stream(drip)), &BodyBudget::default()).await,
            408
        );
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded_and_give_back_what_they_held() {
        let budget = BodyBudget::new(12_000);
        let first = read_body(in_chunks(&[9_000]), &limits(&budget)).await.unwrap();
        assert_eq!(status(in_chunks(&[6_000]), &budget).await, 429);
        assert_eq!(status(in_chunks(&[1_000]), &budget).await, 200);
        drop(first);
        assert_eq!(status(in_chunks(&[9_000]), &budget).await, 200);
    }
}
