//! Orders to erase from strangers: read exactly, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pganalytics_core::audit::order::Order;
use pganalytics_core::tlog::NoteText;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(text) = NoteText::new(text)
        && let Ok(order) = Order::parse(&text)
    {
        assert_eq!(order.to_text(), Ok(text));
    }
});
