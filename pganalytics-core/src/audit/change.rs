use serde::Serialize;
use serde_json::{Map, Value};

/// The fields that differ, before and after. A field that is missing on one side was not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// `None` for what was made.
    pub before: Option<Value>,
    /// `None` for what was deleted.
    pub after: Option<Value>,
}

impl Change {
    /// What was made, in its public form.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn created(after: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { before: None, after: Some(serde_json::to_value(after)?) })
    }

    /// What was deleted, in its public form.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn deleted(before: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { before: Some(serde_json::to_value(before)?), after: None })
    }

    /// The difference of the public forms. Secrets are no part of them: types that hold one cannot be serialised.
    ///
    /// # Errors
    /// When a value cannot be written as JSON.
    pub fn between<T: Serialize>(before: &T, after: &T) -> Result<Self, serde_json::Error> {
        Ok(diff(&serde_json::to_value(before)?, &serde_json::to_value(after)?))
    }

    /// As it stands in [`AuditEvent::changes`](crate::audit::AuditEvent::changes): `{"before": {…}, "after": {…}}`.
    pub fn into_value(self) -> Value {
        let sides = [("before", self.before), ("after", self.after)];
        sides.into_iter().filter_map(|(side, fields)| Some((side.to_owned(), fields?))).collect()
    }

    /// Whether no field differs.
    pub fn is_empty(&self) -> bool {
        self.before == self.after
    }
}

/// The fields of two values that differ: objects are compared field by field, everything else as a whole.
pub fn diff(before: &Value, after: &Value) -> Change {
    let (before, after) = differing(before, after).unwrap_or_else(|| (empty(), empty()));
    Change { before: Some(before), after: Some(after) }
}

/// `None` when they are equal.
fn differing(before: &Value, after: &Value) -> Option<(Value, Value)> {
    if before == after {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return Some((before.clone(), after.clone()));
    };
    let (mut olds, mut news) = (Map::new(), Map::new());
    for (name, old) in old {
        match new.get(name) {
            Some(new) => {
                if let Some((old, new)) = differing(old, new) {
                    olds.insert(name.clone(), old);
                    news.insert(name.clone(), new);
                }
            }
            None => drop(olds.insert(name.clone(), old.clone())),
        }
    }
    for (name, new) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        news.insert(name.clone(), new.clone());
    }
    Some((olds.into(), news.into()))
}

fn empty() -> Value {
    Value::Object(Map::new())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_differing_fields_are_kept() {
        let before = json!({"name": "a", "role": "user", "limits": {"max": 1, "min": 0}, "gone": null});
        let after = json!({"name": "a", "role": "admin", "limits": {"max": 2, "min": 0}, "new": [1]});
        let change = diff(&before, &after);
        assert_eq!(change.before, Some(json!({"role": "user", "limits": {"max": 1}, "gone": null})));
        assert_eq!(change.after, Some(json!({"role": "admin", "limits": {"max": 2}, "new": [1]})));
    }

    #[test]
    fn a_side_that_was_not_there_is_left_out() {
        let made = Change::created(&json!({"name": "a"})).unwrap();
        assert_eq!(made.into_value(), json!({"after": {"name": "a"}}));
    }

    #[test]
    fn equal_values_make_an_empty_change() {
        let value = json!({"a": [1, {"b": null}]});
        assert!(diff(&value, &value).is_empty());
        assert!(!diff(&json!({"a": null}), &json!({})).is_empty());
    }

    #[test]
    fn a_value_that_changes_its_kind_is_kept_whole() {
        let change = diff(&json!({"a": {"b": 1}}), &json!({"a": 1}));
        assert_eq!((change.before, change.after), (Some(json!({"a": {"b": 1}})), Some(json!({"a": 1}))));
    }
}
