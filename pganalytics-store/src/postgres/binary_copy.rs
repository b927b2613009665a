//! The binary format of COPY (PostgreSQL documentation, COPY, "Binary Format"), as far as rows of ours need it.

use std::net::IpAddr;

use chrono::{DateTime, Utc};

/// The signature, no flags, no header extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What ends the rows.
pub(super) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// The version byte that precedes the text of a jsonb.
const JSONB: u8 = 1;

/// PostgreSQL counts time in microseconds from 2000-01-01 UTC; this is that moment's UNIX time.
pub(super) const EPOCH: i64 = 946_684_800_000_000;

/// A field of these bytes.
pub(super) fn put_field(into: &mut Vec<u8>, value: &[u8]) {
    into.extend_from_slice(&field_length(value.len()));
    into.extend_from_slice(value);
}

/// A field that may be null.
pub(super) fn put_optional(into: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => put_field(into, value),
        None => into.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

/// A jsonb whose text is written by `text`.
pub(super) fn put_jsonb(into: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    let length_at = into.len();
    into.extend_from_slice(&[0, 0, 0, 0, JSONB]);
    text(into);
    let length = field_length(into.len() - length_at - 4);
    into[length_at..length_at + 4].copy_from_slice(&length);
}

/// The value of a timestamptz; what is finer than a microsecond is cut off.
pub(super) fn timestamp(time: DateTime<Utc>) -> [u8; 8] {
    (time.timestamp_micros() - EPOCH).to_be_bytes()
}

/// The value of an inet that is one host.
pub(super) fn inet(address: IpAddr) -> Vec<u8> {
    // Address family, bits of the mask, whether it is a cidr, length; as network_recv of PostgreSQL reads them.
    match address {
        IpAddr::V4(address) => [&[2, 32, 0, 4][..], &address.octets()].concat(),
        IpAddr::V6(address) => [&[3, 128, 0, 16][..], &address.octets()].concat(),
    }
}

fn field_length(length: usize) -> [u8; 4] {
    i32::try_from(length).expect("no field is near 2 GiB").to_be_bytes()
}
