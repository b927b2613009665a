use crate::tlog::NoteText;

const MAX_SECONDS: u64 = i64::MAX as u64;

/// What a witness signs (c2sp.org/tlog-cosignature, "Ed25519 signed message"): that at this time, in seconds since 1970, the
/// checkpoint with this text was the largest one of its log that it had seen, and consistent with all before.
pub fn cosigned_message(checkpoint: &NoteText, seconds: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{}", checkpoint.as_str()).into_bytes()
}

/// The bytes of a signature line: the time, then the signature.
pub(super) fn join_cosignature(seconds: u64, signature: &[u8; 64]) -> Vec<u8> {
    [&seconds.to_be_bytes()[..], signature].concat()
}

pub(super) fn split_cosignature(bytes: &[u8]) -> Option<(u64, &[u8; 64])> {
    let (seconds, signature) = bytes.split_first_chunk()?;
    let seconds = u64::from_be_bytes(*seconds);
    let signature = signature.try_into().ok()?;
    (seconds <= MAX_SECONDS).then_some((seconds, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_the_specification_is_made() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let message = cosigned_message(&NoteText::new(text).unwrap(), 1_679_315_147);
        assert_eq!(
            String::from_utf8(message).unwrap(),
            "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
             CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        );
    }

    #[test]
    fn times_and_lengths_out_of_range_are_refused() {
        let signature = [7; 64];
        let bytes = join_cosignature(MAX_SECONDS, &signature);
        assert_eq!(split_cosignature(&bytes), Some((MAX_SECONDS, &signature)));
        assert_eq!(split_cosignature(&bytes[..71]), None);
        assert_eq!(split_cosignature(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(split_cosignature(&join_cosignature(MAX_SECONDS + 1, &signature)), None);
        assert_eq!(split_cosignature(&[]), None);
    }
}
