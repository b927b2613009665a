use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};
use ipnet::IpNet;

/// The address of the client: the peer itself, or, where the peer is a trusted proxy, the nearest address in
/// `X-Forwarded-For` or `Forwarded` (RFC 7239) that is not one, read from right to left.
///
/// What stands to the left of the first untrusted or unreadable element was written by the client and is not believed.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = canonical(peer);
    let is_proxy = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    for hop in forwarded_hops(headers).into_iter().rev() {
        if !is_proxy(&address) {
            break;
        }
        let Some(hop) = hop else { break };
        address = hop;
    }
    address
}

/// The elements in the order of the headers; `None` for what is no address. `X-Forwarded-For` wins where both are sent:
/// mixing two lists would let a client choose its place.
fn forwarded_hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let list = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values
            .flat_map(|value| {
                String::from_utf8_lossy(value.as_bytes()).split(',').map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    };
    let forwarded_for = list("x-forwarded-for");
    if !forwarded_for.is_empty() {
        return forwarded_for.iter().map(|element| parse_node(element)).collect();
    }
    list(header::FORWARDED.as_str()).iter().map(|element| parse_forwarded(element)).collect()
}

fn parse_forwarded(element: &str) -> Option<IpAddr> {
    let mut nodes = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    });
    let node = nodes.next()?;
    if nodes.next().is_some() {
        return None;
    }
    parse_node(node)
}

/// An address, with or without port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn parse_node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| bracketed.and_then(|inner| inner.parse().ok()))?;
    Some(canonical(address))
}

/// An IPv4 address that came mapped into IPv6 is the same client.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &map, &trusted).to_string()
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
        let header = [("forwarded", "for=6.6.6.6, for=\"[2001:db8::1]:4711\";proto=https")];
        assert_eq!(client("::1", &header), "2001:db8::1");
        assert_eq!(client("::ffff:10.0.0.1", &[("forwarded", "for=192.0.2.7:80")]), "192.0.2.7");
    }
}
