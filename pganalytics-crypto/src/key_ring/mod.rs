//! Key-encryption keys that this process holds, and what they wrap.

mod blob;
mod ring;
mod weakness;

pub(crate) use ring::KeyRing;
pub(crate) use weakness::weakness;
