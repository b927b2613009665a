//! Leaves, proofs of events and orders from strangers: read exactly, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pganalytics_core::audit::order::{Order, Removed};
use pganalytics_core::audit::{EventProof, Leaf, PersonalField};
use pganalytics_core::tlog::NoteText;

fuzz_target!(|bytes: &[u8]| {
    let leaf = Leaf::parse(bytes).ok();
    if let Some(Leaf::Row(row)) = leaf {
        let _ = (row.at(), row.to_json());
        let names = ["actor_name", "address", "user_agent", "changes"];
        for field in names.into_iter().filter_map(PersonalField::of_name) {
            let _ = row.commitment(field);
        }
        assert!(bytes[1..].starts_with(row.signed));
    }
    if let Ok(proof) = EventProof::parse(bytes) {
        assert_eq!(EventProof::parse(proof.to_string().as_bytes()).ok().as_ref(), Some(&proof));
    }
    let text = str::from_utf8(bytes).ok().and_then(|text| NoteText::new(text).ok());
    if let Some(text) = text
        && let Ok(order) = Order::parse(&text)
    {
        assert_eq!(order.to_text(), Ok(text));
    }
    // An order and a leaf in one: whatever it selects, it is not about what comes later.
    if let Some(at) = bytes.windows(2).position(|pair| pair == [0, 0])
        && let (text, [_, _, leaf @ ..]) = bytes.split_at(at)
        && let Ok(text) = str::from_utf8(text)
        && let Ok(text) = NoteText::new(text)
        && let Ok(order) = Order::parse(&text)
        && let Ok(Leaf::Row(row)) = Leaf::parse(leaf)
        && order.covers(&row, Removed::PersonalFields)
    {
        assert!(row.at().is_some_and(|at| at < order.issued_at));
    }
});
