use crate::cli::print;
use crate::cli::progress::Progress;

/// Something slow. On a terminal it is shown while it goes on, and a line stays when it is done.
#[derive(Debug)]
pub(super) struct Step(Progress);

impl Step {
    pub(super) fn begin(what: &'static str) -> Self {
        Self(Progress::begin(what))
    }

    pub(super) fn done(self, what: impl std::fmt::Display) {
        drop(self);
        print(what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.0.clear();
    }
}
