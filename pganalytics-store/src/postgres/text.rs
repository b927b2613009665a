use serde_json::Value;

use super::error::StoreError;

/// Refuses what PostgreSQL cannot store, and names the field that it is in.
pub(super) fn check<'a>(
    fields: impl IntoIterator<Item = (&'static str, Option<&'a str>)>,
) -> Result<(), StoreError> {
    match fields.into_iter().find(|(_, text)| text.is_some_and(|text| text.contains('\0'))) {
        Some((field, _)) => Err(StoreError::InvalidText { field }),
        None => Ok(()),
    }
}

/// As [`check`], for the strings and keys at any depth of a value for a `jsonb` column.
pub(super) fn check_json(field: &'static str, value: &Value) -> Result<(), StoreError> {
    let mut pending = vec![value];
    while let Some(value) = pending.pop() {
        match value {
            Value::String(text) => check([(field, Some(text.as_str()))])?,
            Value::Array(items) => pending.extend(items),
            Value::Object(entries) => {
                check(entries.keys().map(|key| (field, Some(key.as_str()))))?;
                pending.extend(entries.values());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_is_refused_with_the_name_of_its_field() {
        let refused = check([("name", Some("fine")), ("description", None), ("hostname", Some("a\0b"))]);
        assert!(matches!(refused, Err(StoreError::InvalidText { field: "hostname" })));
        assert!(check([("name", Some("' OR 1=1 --"))]).is_ok());
    }

    #[test]
    fn nul_is_found_at_any_depth_of_json() {
        for bad in [json!("\0"), json!([1, ["\0"]]), json!({"a": {"b": "x\0"}}), json!({"a": {"\0": 1}})] {
            assert!(matches!(
                check_json("condition", &bad),
                Err(StoreError::InvalidText { field: "condition" })
            ));
        }
        assert!(check_json("condition", &json!({"a": ["\\u0000", null, 1.5]})).is_ok());
    }
}
