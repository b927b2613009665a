use pganalytics_core::secret::SecretString;

use super::hasher::MAX_PASSWORD_BYTES;

const COMMON: &str = include_str!("common_passwords.txt");

/// What a new password must be, after NIST SP 800-63B, section 5.1.1.2: long enough and not one of those that are tried
/// first. There are no rules of composition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PasswordPolicy {
    /// Shortest password in characters, 8 by default.
    pub min_chars: usize,
    /// Words that are no password either, whatever their case: the name of the product and of the house.
    pub forbidden: Vec<String>,
}

/// Why a password is not acceptable. For the person who chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakPassword {
    /// Too few characters.
    #[error("the password has fewer than {min_chars} characters")]
    TooShort {
        /// How many it needs.
        min_chars: usize,
    },
    /// Too many bytes.
    #[error("the password has more than 1024 bytes")]
    TooLong,
    /// One of the passwords that are tried first, or the user's own name.
    #[error("the password is too easy to guess")]
    Common,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self { min_chars: 8, forbidden: vec!["pganalytics".into()] }
    }
}

impl PasswordPolicy {
    /// Sets the shortest length in characters; never below 8.
    #[must_use]
    pub fn with_min_chars(self, min_chars: usize) -> Self {
        Self { min_chars: min_chars.max(8), ..self }
    }

    /// Adds words that are no password.
    #[must_use]
    pub fn forbidding(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.forbidden.extend(words);
        self
    }

    /// Judges a new password of the user of that name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, username: &str, password: &SecretString) -> Result<(), WeakPassword> {
        let password = password.expose();
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(WeakPassword::TooLong);
        }
        if password.chars().count() < self.min_chars {
            return Err(WeakPassword::TooShort { min_chars: self.min_chars });
        }
        if self.is_common(username, &password.to_lowercase()) {
            return Err(WeakPassword::Common);
        }
        Ok(())
    }

    fn is_common(&self, username: &str, password: &str) -> bool {
        let mut words = self.forbidden.iter().map(String::as_str).chain([username]);
        COMMON.lines().any(|common| common == password) || words.any(|word| word.to_lowercase() == password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(password: &str) -> Result<(), WeakPassword> {
        PasswordPolicy::default().check("Grace.Hopper", &SecretString::new(password))
    }

    #[test]
    fn long_uncommon_passwords_are_accepted() {
        for password in ["correct horse", "eight888", "ünïcödé!", " with blanks ", &"x".repeat(1024)] {
            assert_eq!(check(password), Ok(()), "{password}");
        }
    }

    #[test]
    fn length_counts_characters_below_and_bytes_above() {
        assert_eq!(check("éééééé7"), Err(WeakPassword::TooShort { min_chars: 8 }));
        assert_eq!(check("éééééé78"), Ok(()));
        assert_eq!(check(""), Err(WeakPassword::TooShort { min_chars: 8 }));
        assert_eq!(check(&"x".repeat(1025)), Err(WeakPassword::TooLong));
        assert_eq!(PasswordPolicy::default().with_min_chars(3).min_chars, 8);
    }

    #[test]
    fn what_is_tried_first_is_refused_in_any_case() {
        for password in ["password", "PassWord1", "qwertyuiop", "pgAnalytics", "grace.hopper"] {
            assert_eq!(check(password), Err(WeakPassword::Common), "{password}");
        }
        let policy = PasswordPolicy::default().forbidding(["Example Bank".into()]);
        assert_eq!(policy.check("x", &SecretString::new("example bank")), Err(WeakPassword::Common));
    }

    #[test]
    fn every_listed_password_could_be_chosen_otherwise() {
        for common in COMMON.lines() {
            assert!(common.chars().count() >= 8 && common.to_lowercase() == common, "{common}");
        }
    }
}
