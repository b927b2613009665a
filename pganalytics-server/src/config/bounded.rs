use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A whole number within a range, so that a wrong one is refused where it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

/// Seconds within a range.
pub type Seconds<const MIN: u64, const MAX: u64> = Bounded<MIN, MAX>;

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// A number that is known to be in the range.
    ///
    /// # Panics
    /// When it is not: for constants.
    pub const fn new(value: u64) -> Self {
        assert!(value >= MIN && value <= MAX, "constant is out of its range");
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a length.
    ///
    /// # Panics
    /// When the machine cannot address as much memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).expect("limits fit the address space")
    }

    /// The number as `u32`.
    ///
    /// # Panics
    /// When the range of the setting exceeds `u32`.
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).expect("the range of this setting fits u32")
    }

    /// The number of seconds.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> de::Visitor<'_> for Visitor<MIN, MAX> {
            type Value = Bounded<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&value) {
                    return Ok(Bounded(value));
                }
                Err(E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                let Ok(unsigned) = u64::try_from(value) else {
                    return Err(E::invalid_value(de::Unexpected::Signed(value), &self));
                };
                self.visit_u64(unsigned)
            }
        }

        deserializer.deserialize_u64(Visitor::<MIN, MAX>)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Bounded<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Bounded{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}
