use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{self, HeaderName};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client: the peer itself, or, where the peer is a trusted proxy, the nearest address in
/// `X-Forwarded-For` or `Forwarded` (RFC 7239) that is not one, read from right to left. An IPv4 address that is mapped into
/// IPv6 is the same as itself, also for `is_proxy`.
///
/// What stands to the left of the first untrusted or unreadable element was written by the client and is not believed.
/// `X-Forwarded-For` wins where both are sent: mixing two lists would let a client choose its place.
///
/// ```
/// use http::HeaderMap;
/// use pganalytics_core::layer::client_address;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", "1.2.3.4, 203.0.113.9".parse().unwrap());
/// let proxy = "10.0.0.1".parse().unwrap();
/// let client = client_address(proxy, &headers, |address| *address == proxy);
/// assert_eq!(client.to_string(), "203.0.113.9");
/// ```
pub fn client_address(peer: IpAddr, headers: &HeaderMap, is_proxy: impl Fn(&IpAddr) -> bool) -> IpAddr {
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = match headers.contains_key(X_FORWARDED_FOR) {
        true => (X_FORWARDED_FOR, node),
        false => (header::FORWARDED, forwarded_for),
    };
    let mut address = peer.to_canonical();
    // Quotes are no reason to keep elements together: nothing in one that names an address has a comma.
    let elements =
        headers.get_all(name).iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    for element in elements {
        if !is_proxy(&address) {
            break;
        }
        let Some(hop) = str::from_utf8(element).ok().and_then(read) else { break };
        address = hop;
    }
    address
}

/// The `for` of an element of `Forwarded`, if there is one and no other.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut values = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    });
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    node(quoted.unwrap_or(value))
}

/// An address, with or without port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`. One with
/// a zone is of somebody else's machine.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => IpAddr::V6(inner.parse().ok()?),
        None if text.contains('%') => return None,
        None => text.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde::Deserialize;

    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let is_proxy = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.is_loopback(),
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &map, is_proxy).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(client("203.0.113.9", &[("x-forwarded-for", "1.2.3.4")]), "203.0.113.9");
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        let header = [("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.0.0.2")];
        assert_eq!(client("10.0.0.1", &header), "203.0.113.9");
    }

    #[test]
    fn several_headers_are_one_list() {
        let headers = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(client("10.0.0.1", &headers), "203.0.113.9");
    }

    #[test]
    fn an_unreadable_element_ends_the_search() {
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, unknown, 10.0.0.3")]), "10.0.0.3");
    }

    #[test]
    fn forwarded_is_read_with_ports_and_brackets() {
        for (header, expected) in [
            ("for=6.6.6.6, for=\"[2001:db8::1]:4711\";proto=https", "2001:db8::1"),
            ("For=\"[2001:db8::1]\";by=10.0.0.1", "2001:db8::1"),
            ("proto=https; for=192.0.2.7:80", "192.0.2.7"),
            ("for=\"192.0.2.7:80\", for=10.0.0.9", "192.0.2.7"),
        ] {
            assert_eq!(client("::ffff:10.0.0.1", &[("forwarded", header)]), expected, "{header}");
        }
    }

    #[test]
    fn what_is_odd_in_forwarded_tells_nothing() {
        for header in [
            "for=unknown",
            "for=_hidden",
            "for=\"192.0.2.7",
            "for=\"\"192.0.2.7\"\"",
            "for=[192.0.2.7]",
            "for=\"[fe80::1%1]:80\"",
            "for=192.0.2.7;for=192.0.2.8",
            "by=192.0.2.7",
            "192.0.2.7",
            "",
            "for=192.0.2.7, ",
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", header)]), "10.0.0.1", "{header}");
        }
    }

    #[test]
    fn a_quote_that_the_client_left_open_hides_nothing_from_the_proxy() {
        let header = [("forwarded", "for=\"6.6.6.6, for=203.0.113.9")];
        assert_eq!(client("10.0.0.1", &header), "203.0.113.9");
    }

    #[test]
    fn one_list_is_read_not_both() {
        let headers = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "203.0.113.9, 10.0.0.2")];
        assert_eq!(client("10.0.0.1", &headers), "203.0.113.9");
        let headers = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "unknown")];
        assert_eq!(client("10.0.0.1", &headers), "10.0.0.1");
    }

    #[derive(Deserialize)]
    struct Vectors {
        trusted: Vec<String>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        id: String,
        peer: IpAddr,
        x_forwarded_for: Vec<String>,
        client: Option<IpAddr>,
    }

    /// Of the two networks of the vectors.
    fn is_trusted(address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 1],
        }
    }

    #[test]
    fn vectors_of_x_forwarded_for_are_read_as_they_say() {
        let vectors: Vectors = serde_json::from_str(include_str!("../../tests/vectors/ip/xff.json")).unwrap();
        assert_eq!(vectors.trusted, ["10.0.0.0/8", "2001:db8:1::/48"]);
        assert_eq!(vectors.cases.len(), 28);
        for Case { id, peer, x_forwarded_for, client } in vectors.cases {
            let mut headers = HeaderMap::new();
            for value in x_forwarded_for {
                match HeaderValue::try_from(value) {
                    Ok(value) => drop(headers.append("x-forwarded-for", value)),
                    Err(_) => assert_eq!(client, None, "{id}: it is no header"),
                }
            }
            let found = client_address(peer, &headers, is_trusted);
            assert_eq!(found, client.unwrap_or(peer.to_canonical()), "{id}");
        }
    }
}
