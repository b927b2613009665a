use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;

use super::push_memory::{PushMemory, Reservation};
use crate::api::ApiError;

/// RFC 1952, section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// How long a client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(30);

/// How large a body may be, inflated, and how long it may take to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveLimits {
    pub(super) bytes: usize,
    pub(super) time: Duration,
    silence: Duration,
}

impl ReceiveLimits {
    pub(super) fn new(bytes: usize, time: Duration) -> Self {
        Self { bytes, time, silence: SILENCE }
    }
}

/// The body of a push, inflated, and the memory that it lies in.
#[derive(Debug)]
pub(super) struct PushBody {
    pub(super) bytes: Vec<u8>,
    /// What came over the wire.
    pub(super) bytes_received: usize,
    pub(super) memory: Reservation,
}

/// Receives a body. Whether it is compressed is seen from its first bytes: the field collector sends a false
/// `Content-Encoding` when it repeats a push.
///
/// # Errors
/// 413 above the limit of bytes, 408 above that of time or when the client falls silent, 400 when it breaks off, 503 when
/// there is no memory for the body.
pub(super) async fn receive(
    memory: &PushMemory,
    limits: ReceiveLimits,
    request: Request,
) -> Result<PushBody, ApiError> {
    let limit = limits.bytes;
    let declared = content_length(request.headers()).unwrap_or(limit);
    if declared > limit {
        return Err(too_large(limit));
    }
    let reserved = memory.reserve(declared).await?;
    let reading = read(request.into_body(), declared, &limits);
    let sent = tokio::time::timeout(limits.time, reading).await.map_err(|_| too_slow())??;
    let bytes_received = sent.len();
    if !sent.starts_with(&GZIP_MAGIC) {
        return Ok(PushBody { bytes: sent, bytes_received, memory: reserved });
    }
    let expected = inflated_len(&sent).min(limit);
    let for_inflated = memory.reserve(expected).await?;
    let (sent, inflated) = inflate_elsewhere(sent, expected).await?;
    if let Inflated::Whole(bytes) = inflated {
        return Ok(PushBody { bytes, bytes_received, memory: for_inflated });
    }
    // Of several members the trailer tells the length of the last one only; or it lies.
    if expected == limit {
        return Err(too_large(limit));
    }
    drop(for_inflated);
    let for_inflated = memory.reserve(limit).await?;
    match inflate_elsewhere(sent, limit).await? {
        (_, Inflated::Whole(bytes)) => Ok(PushBody { bytes, bytes_received, memory: for_inflated }),
        (_, Inflated::Larger) => Err(too_large(limit)),
    }
}

/// Text, with a question mark for each byte that belongs to no character, and how many these were.
pub(super) fn into_text(mut bytes: Vec<u8>) -> (String, usize) {
    let mut replaced = 0;
    let mut checked = 0;
    while let Err(error) = std::str::from_utf8(&bytes[checked..]) {
        let start = checked + error.valid_up_to();
        let end = error.error_len().map_or(bytes.len(), |length| start + length);
        bytes[start..end].fill(b'?');
        replaced += end - start;
        checked = end;
    }
    (String::from_utf8(bytes).expect("what is no character was replaced"), replaced)
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn read(mut body: Body, expected: usize, limits: &ReceiveLimits) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::with_capacity(expected);
    loop {
        let frame = match tokio::time::timeout(limits.silence, body.frame()).await {
            Err(_) => return Err(too_slow()),
            Ok(None) => return Ok(bytes),
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "push was broken off");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "Request body could not be read"));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limits.bytes - bytes.len() {
            return Err(too_large(limits.bytes));
        }
        bytes.extend_from_slice(&data);
    }
}

enum Inflated {
    Whole(Vec<u8>),
    /// There is more than was allowed.
    Larger,
}

async fn inflate_elsewhere(sent: Vec<u8>, limit: usize) -> Result<(Vec<u8>, Inflated), ApiError> {
    let inflating = tokio::task::spawn_blocking(move || {
        let inflated = inflate(&sent, limit);
        inflated.map(|inflated| (sent, inflated))
    });
    let inflated = inflating.await.map_err(ApiError::internal)?;
    // The field collector compresses nothing, so that no such body is sent again for ever.
    inflated.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "Invalid metrics data").with_details(format!("gzip: {error}"))
    })
}

fn inflate(sent: &[u8], limit: usize) -> std::io::Result<Inflated> {
    let mut decoder = MultiGzDecoder::new(sent);
    let mut bytes = vec![0; limit];
    let mut filled = 0;
    while filled < limit {
        match decoder.read(&mut bytes[filled..])? {
            0 => {
                bytes.truncate(filled);
                return Ok(Inflated::Whole(bytes));
            }
            length => filled += length,
        }
    }
    let is_whole = decoder.read(&mut [0])? == 0;
    Ok(if is_whole { Inflated::Whole(bytes) } else { Inflated::Larger })
}

/// The length of the last member modulo 2^32 (RFC 1952, section 2.3.1), as the sender says.
fn inflated_len(sent: &[u8]) -> usize {
    sent.last_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length) as usize)
}

/// Collectors keep what was not answered 200 and send it again.
fn too_slow() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "Request body did not come in time")
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large")
        .with_details(format!("a push has at most {limit} bytes, decompressed ones counted"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures::StreamExt;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn received(body: Vec<u8>, limit: usize) -> Result<Vec<u8>, StatusCode> {
        let request = Request::builder().header(header::CONTENT_LENGTH, body.len());
        let request = request.body(Body::from(body)).unwrap();
        let limits = ReceiveLimits::new(limit, Duration::from_secs(30));
        let received = receive(&PushMemory::new(1 << 20), limits, request).await;
        received.map(|body| body.bytes).map_err(|error| error.status())
    }

    #[tokio::test]
    async fn bodies_up_to_the_limit_are_received_and_larger_ones_are_not() {
        let text = vec![b'a'; 1000];
        assert_eq!(received(text.clone(), 1000).await.unwrap(), text);
        assert_eq!(received(gzip(&text), 1000).await.unwrap(), text);
        assert_eq!(received(text.clone(), 999).await.unwrap_err(), 413);
        assert_eq!(received(gzip(&text), 999).await.unwrap_err(), 413);
    }

    #[tokio::test]
    async fn the_length_in_a_gzip_trailer_is_not_believed() {
        let text = vec![b'a'; 1000];
        let members = [gzip(&text), gzip(b"b")].concat();
        assert_eq!(received(members.clone(), 1001).await.unwrap(), [text, vec![b'b']].concat());
        assert_eq!(received(members, 1000).await.unwrap_err(), 413);
    }

    #[tokio::test]
    async fn a_client_that_falls_silent_or_takes_too_long_is_given_up() {
        let patient = ReceiveLimits::new(1000, Duration::from_secs(30));
        let hurried = Duration::from_millis(20);
        for limits in
            [ReceiveLimits { silence: hurried, ..patient }, ReceiveLimits { time: hurried, ..patient }]
        {
            let begun = futures::stream::iter([Ok::<_, std::io::Error>("{")]);
            let body = Body::from_stream(begun.chain(futures::stream::pending()));
            let memory = PushMemory::new(1 << 20);
            let given_up = receive(&memory, limits, Request::new(body)).await.unwrap_err();
            assert_eq!(given_up.status(), 408);
            // What it had set aside is free again.
            memory.reserve(1 << 20).await.unwrap();
        }
    }

    #[tokio::test]
    async fn broken_gzip_is_refused() {
        let mut cut = gzip(b"some text that is long enough");
        cut.truncate(20);
        assert_eq!(received(cut, 1000).await.unwrap_err(), 400);
        assert_eq!(received(GZIP_MAGIC.to_vec(), 1000).await.unwrap_err(), 400);
    }

    #[test]
    fn bytes_that_are_no_characters_are_replaced_one_by_one() {
        assert_eq!(into_text("plain ü".into()), ("plain ü".into(), 0));
        assert_eq!(into_text(b"a\xff\xc3(b\xe2\x82".to_vec()), ("a??(b??".into(), 4));
    }
}
