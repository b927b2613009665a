use std::env;
use std::io::{self, Write};

/// The environment variable that turns a missing service from a skipped test into a failed one, when it is `1`.
pub const REQUIRE_BACKENDS: &str = "PGA_TEST_REQUIRE_BACKENDS";

/// Whether every service must be there, as in continuous integration.
#[must_use]
pub fn require_backends() -> bool {
    is_set(REQUIRE_BACKENDS)
}

/// Says that a service is not installed; the test is then to be skipped.
///
/// # Panics
/// When every service must be there.
pub fn missing<T>(service: &str, package: &str) -> Option<T> {
    skipped(&format!("{service} is not installed (Debian package `{package}`)"), REQUIRE_BACKENDS)
}

/// Says that a service is not installed which Debian does not package; the test is then to be skipped.
///
/// # Panics
/// When the environment variable `required` is `1`.
pub(crate) fn missing_optional<T>(service: &str, required: &str) -> Option<T> {
    skipped(&format!("{service} is not on the PATH"), required)
}

fn skipped<T>(message: &str, required: &str) -> Option<T> {
    assert!(!is_set(required), "{message}, and {required}=1");
    // Not `eprintln!`, which the test harness hides when the test passes.
    let _ = writeln!(io::stderr(), "skipped: {message}");
    None
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "1")
}
