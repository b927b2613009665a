use std::fmt::{Debug, Write};

/// Runs the futures at once, each as a task of its own, and yields what they yielded, in order.
pub(crate) async fn together<T: Send + 'static>(
    calls: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    futures::future::join_all(tasks)
        .await
        .into_iter()
        .map(|task| task.expect("no call of a port panics"))
        .collect()
}

/// Says that a clause, or a part of one, was not tried.
#[expect(clippy::print_stderr, reason = "whoever runs a suite must see what it did not prove")]
pub(crate) fn skip(clause: &str, reason: &str) {
    eprintln!("{clause}: skipped: {reason}");
}

/// Demands that neither form of `Debug` shows eight bytes of the secret in a row: as text, hex or a list of numbers.
pub(crate) fn assert_not_printed(value: &dyn Debug, secret: &[u8]) {
    let compact = format!("{value:?}");
    let pretty: String = format!("{value:#?}").split_whitespace().collect();
    for part in secret.windows(8) {
        for shown in [hex::encode(part), hex::encode_upper(part), listed(part)] {
            assert!(!compact.contains(&shown), "a secret is printed");
            assert!(!pretty.contains(&shown.replace(' ', "")), "a secret is printed");
        }
        let text = std::str::from_utf8(part);
        assert!(!text.is_ok_and(|text| compact.contains(text)), "a secret is printed");
    }
}

fn listed(bytes: &[u8]) -> String {
    let mut list = String::new();
    for byte in bytes {
        write!(list, " {byte},").expect("a string takes any text");
    }
    list.trim_end_matches(',').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redacted_value_passes() {
        assert_not_printed(&"redacted", b"a secret of some bytes");
    }

    #[test]
    #[should_panic(expected = "a secret is printed")]
    fn printed_text_is_noticed() {
        assert_not_printed(&"it is a secret of", b"a secret of some bytes");
    }

    #[test]
    #[should_panic(expected = "a secret is printed")]
    fn printed_hex_is_noticed() {
        assert_not_printed(&hex::encode([2, 3, 4, 5, 6, 7, 8, 9]), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    #[should_panic(expected = "a secret is printed")]
    fn printed_numbers_are_noticed() {
        assert_not_printed(&vec![1, 200, 3, 4, 5, 6, 7, 8, 9], &[200, 3, 4, 5, 6, 7, 8, 9]);
    }
}
