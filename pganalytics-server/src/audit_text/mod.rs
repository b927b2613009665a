//! Events of the audit log as the API and the command line show them: JSON, JSON lines and CSV.

mod lines;
mod view;

pub(crate) use lines::LineFormat;
pub(crate) use view::EventView;
