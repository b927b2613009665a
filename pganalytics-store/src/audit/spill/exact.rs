use pganalytics_core::audit::AuditEvent;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The deepest that an event's changes nest; a JSON parser stops some way beyond.
pub(super) const DEPTH_MAX: usize = 100;

/// The event of a line, the same as the one that was written.
pub(super) fn parse(line: &[u8]) -> serde_json::Result<AuditEvent> {
    let mut event: AuditEvent = serde_json::from_slice(line)?;
    if event.changes.as_ref().is_some_and(holds_float) {
        // The parser rounds some numbers of 17 digits to their neighbours.
        event.changes = Some(exact(serde_json::from_slice::<Changes>(line)?.changes)?);
    }
    Ok(event)
}

pub(super) fn is_too_deep(value: &Value) -> bool {
    fn deeper(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(items) => left == 0 || items.iter().any(|item| deeper(item, left - 1)),
            Value::Object(fields) => left == 0 || fields.values().any(|item| deeper(item, left - 1)),
            _ => false,
        }
    }
    deeper(value, DEPTH_MAX)
}

#[derive(Deserialize)]
struct Changes<'a> {
    #[serde(borrow)]
    changes: &'a RawValue,
}

fn holds_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(holds_float),
        Value::Object(fields) => fields.values().any(holds_float),
        _ => false,
    }
}

fn exact(raw: &RawValue) -> serde_json::Result<Value> {
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let fields: Vec<(String, &RawValue)> = fields(text)?;
            let exact = fields.into_iter().map(|(name, raw)| Ok((name, exact(raw)?)));
            Value::Object(exact.collect::<serde_json::Result<Map<_, _>>>()?)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            Value::Array(items.into_iter().map(exact).collect::<serde_json::Result<_>>()?)
        }
        Some(b'-' | b'0'..=b'9') => number(text)?,
        _ => serde_json::from_str(text)?,
    })
}

fn fields(text: &str) -> serde_json::Result<Vec<(String, &RawValue)>> {
    let fields: std::collections::HashMap<String, &RawValue> = serde_json::from_str(text)?;
    Ok(fields.into_iter().collect())
}

fn number(text: &str) -> serde_json::Result<Value> {
    let value: Value = serde_json::from_str(text)?;
    if !value.is_f64() {
        return Ok(value);
    }
    let exact = text.parse().ok().and_then(serde_json::Number::from_f64);
    Ok(exact.map_or(value, Value::Number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::audit::spill::frame::tests::event;

    fn nested(depth: usize) -> Value {
        (0..depth).fold(
            json!(0),
            |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({ "a": inner }) },
        )
    }

    fn comes_back(changes: Value) {
        let mut event = event(1);
        event.changes = Some(changes);
        assert_eq!(parse(&serde_json::to_vec(&event).unwrap()).unwrap(), event);
    }

    proptest! {
        #[test]
        fn every_number_comes_back(float in any::<f64>(), whole in any::<i64>(), natural in any::<u64>()) {
            comes_back(json!({ "a": [float, whole, natural], "b": { "c": float, "d": "text", "e": null } }));
        }
    }

    #[test]
    fn what_is_not_too_deep_comes_back() {
        let deep = nested(DEPTH_MAX);
        assert!(!is_too_deep(&deep));
        assert!(is_too_deep(&nested(DEPTH_MAX + 1)));
        comes_back(json!([deep[0], 0.1]));
    }
}
