use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredResponse {
    /// The HTTP status.
    pub status: u16,
    /// Header names (lower case) and values to be replayed.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

impl StoredResponse {
    /// All parts.
    pub fn new(status: u16, headers: Vec<(String, Bytes)>, body: Bytes) -> Self {
        Self { status, headers, body }
    }

    /// One run of bytes, for stores that keep nothing else: the status (2 bytes), the number of headers (4), each name and
    /// value after its length (4), and the body. Numbers are big-endian.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(128 + self.body.len());
        bytes.put_u16(self.status);
        put_length(&mut bytes, self.headers.len());
        for (name, value) in &self.headers {
            put_length(&mut bytes, name.len());
            bytes.put_slice(name.as_bytes());
            put_length(&mut bytes, value.len());
            bytes.put_slice(value);
        }
        bytes.put_slice(&self.body);
        bytes.freeze()
    }

    /// What [`StoredResponse::to_bytes`] has written; `None` for anything else.
    pub fn from_bytes(mut bytes: Bytes) -> Option<Self> {
        let status = bytes.try_get_u16().ok()?;
        let count = bytes.try_get_u32().ok()?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = String::from_utf8(take(&mut bytes)?.into()).ok()?;
            headers.push((name, take(&mut bytes)?));
        }
        Some(Self::new(status, headers, bytes))
    }
}

/// What does not fit is larger than any store takes.
fn put_length(bytes: &mut BytesMut, length: usize) {
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    (length <= bytes.remaining()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_response_is_read_back(
            status: u16,
            headers in proptest::collection::vec(("[a-z-]{0,20}", any::<Vec<u8>>()), 0..5),
            body: Vec<u8>,
        ) {
            let headers = headers.into_iter().map(|(name, value)| (name, value.into())).collect();
            let response = StoredResponse::new(status, headers, body.into());
            prop_assert_eq!(StoredResponse::from_bytes(response.to_bytes()), Some(response));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Some(response) = StoredResponse::from_bytes(bytes.clone().into()) {
                prop_assert_eq!(&response.to_bytes()[..], &bytes[..]);
            }
        }
    }
}
