use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::print;

const TICK: Duration = Duration::from_millis(100);

/// Something slow. On a terminal it is shown while it goes on, and a line stays when it is done.
#[derive(Debug)]
pub(super) struct Step(Option<ProgressBar>);

impl Step {
    pub(super) fn begin(what: &'static str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            let bar =
                ProgressBar::new_spinner().with_style(style.expect("the template is one")).with_message(what);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self(bar)
    }

    pub(super) fn done(self, what: impl std::fmt::Display) {
        drop(self);
        print(what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
