use bytes::{BufMut, Bytes, BytesMut};

/// Which of the two name spaces of a cache a name is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Entry,
    Group,
}

/// What the processes tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// The sender is there; when it sent this, by its own clock, in microseconds.
    Heartbeat(i64),
    /// The sender has changed this.
    Changed(Kind, &'a str),
    /// The sender has changed more than it can name.
    ChangedAll,
}

/// Tells processes apart.
pub(super) type Sender = [u8; 16];

impl<'a> Message<'a> {
    pub(super) fn encode(&self, sender: &Sender) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(sender);
        match self {
            Self::Heartbeat(sent) => {
                bytes.put_u8(b'h');
                bytes.put_i64(*sent);
            }
            Self::Changed(kind, name) => {
                bytes.put_u8(if *kind == Kind::Entry { b'k' } else { b'g' });
                bytes.put_slice(name.as_bytes());
            }
            Self::ChangedAll => bytes.put_u8(b'a'),
        }
        bytes.freeze()
    }

    /// `None` for what a later version may say.
    pub(super) fn decode(payload: &'a [u8]) -> Option<(Sender, Self)> {
        let (sender, rest) = payload.split_first_chunk::<16>()?;
        let (tag, body) = rest.split_first()?;
        let message = match tag {
            b'h' => Self::Heartbeat(i64::from_be_bytes(body.try_into().ok()?)),
            b'k' => Self::Changed(Kind::Entry, std::str::from_utf8(body).ok()?),
            b'g' => Self::Changed(Kind::Group, std::str::from_utf8(body).ok()?),
            b'a' if body.is_empty() => Self::ChangedAll,
            _ => return None,
        };
        Some((*sender, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_understood() {
        let sender = [7; 16];
        let messages = [
            Message::Heartbeat(-1),
            Message::Changed(Kind::Entry, "schlüssel"),
            Message::Changed(Kind::Group, ""),
            Message::ChangedAll,
        ];
        for message in messages {
            assert_eq!(Message::decode(&message.encode(&sender)), Some((sender, message)));
        }
        for foreign in [&b""[..], b"short", &[b'x'; 17], &[b'h'; 20]] {
            assert_eq!(Message::decode(foreign), None);
        }
    }
}
