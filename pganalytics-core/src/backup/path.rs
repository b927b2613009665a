use std::fmt;
use std::str::FromStr;

/// The name of an object: segments separated by `/`, each of 1 to 200 of `A-Z a-z 0-9 . _ - = +`, none beginning with a
/// dot; at most 1000 bytes in all. So it is safe as a file path and as an S3 key alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no object path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no object path: segments of A-Z a-z 0-9 . _ - = + that do not begin with a dot")]
pub struct InvalidObjectPath(pub String);

impl FromStr for ObjectPath {
    type Err = InvalidObjectPath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-=+".contains(&byte);
        let fits = |segment: &str| {
            (1..=200).contains(&segment.len()) && !segment.starts_with('.') && segment.bytes().all(allowed)
        };
        if text.len() > 1000 || !text.split('/').all(fits) {
            return Err(InvalidObjectPath(text.into()));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traversal_and_odd_names_are_refused() {
        for text in
            ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".hidden", "a b", "a\\b", "ü", "a\0", "a/./b"]
        {
            assert!(text.parse::<ObjectPath>().is_err(), "{text:?}");
        }
        assert!("wal/000000010000000000000001.zst".parse::<ObjectPath>().is_ok());
    }
}
