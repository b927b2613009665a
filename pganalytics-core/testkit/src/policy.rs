use std::env;
use std::io::{self, Write};

/// The environment variable that turns a missing service from a skipped test into a failed one, when it is `1`.
pub const REQUIRE_BACKENDS: &str = "PGA_TEST_REQUIRE_BACKENDS";

/// Whether every service must be there, as in continuous integration.
#[must_use]
pub fn require_backends() -> bool {
    env::var_os(REQUIRE_BACKENDS).is_some_and(|value| value == "1")
}

/// Says that a service is not installed; the test is then to be skipped.
///
/// # Panics
/// When every service must be there.
pub fn missing<T>(service: &str, package: &str) -> Option<T> {
    let message = format!("{service} is not installed (Debian package `{package}`)");
    assert!(!require_backends(), "{message}, and {REQUIRE_BACKENDS}=1");
    // Not `eprintln!`, which the test harness hides when the test passes.
    let _ = writeln!(io::stderr(), "skipped: {message}");
    None
}
