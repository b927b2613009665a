use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);
const SPINNER: &str = "{spinner} {msg} ({elapsed})";
const BAR: &str = "{spinner} {msg} [{bar:30}] {pos} of {len} ({elapsed})";

/// What slow work shows while it goes on, on a terminal. Clones show the same; nothing of it stays.
#[derive(Clone, Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn begin(what: &'static str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_style(style(SPINNER)).with_message(what);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self(bar)
    }

    /// Says what goes on now, whose length is not known.
    pub(super) fn say(&self, what: String) {
        if let Some(bar) = &self.0 {
            bar.set_style(style(SPINNER));
            bar.set_message(what);
        }
    }

    /// Says what goes on now, and how much of it is done.
    pub(super) fn count(&self, what: String, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_style(style(BAR));
            bar.set_message(what);
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the constants are templates")
}
