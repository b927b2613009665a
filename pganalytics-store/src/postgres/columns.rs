use pganalytics_core::ids::{RegistrationSecretId, UserId};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::{Decode, Postgres, Type, ValueRef};
use uuid::Uuid;

/// A uuid column that may be null, on its way to an optional id: `#[sqlx(try_from = "NullableUuid")]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct NullableUuid(Option<Uuid>);

impl Type<Postgres> for NullableUuid {
    fn type_info() -> PgTypeInfo {
        <Uuid as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for NullableUuid {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.is_null() { Ok(Self(None)) } else { Uuid::decode(value).map(|id| Self(Some(id))) }
    }
}

impl From<NullableUuid> for Option<UserId> {
    fn from(column: NullableUuid) -> Self {
        column.0.map(UserId)
    }
}

impl From<NullableUuid> for Option<RegistrationSecretId> {
    fn from(column: NullableUuid) -> Self {
        column.0.map(RegistrationSecretId)
    }
}
