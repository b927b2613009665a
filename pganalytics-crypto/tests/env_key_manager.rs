//! Keys in variables. The environment of the test process is never touched.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::OsString;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pganalytics_core::keys::{DataKey, KeyContext, KeyError, KeyManager, KeyName, KeyVersion, WrappedKey};
use pganalytics_core::random::os_secret;
use pganalytics_core::testing::Subject;
use pganalytics_core::testing::key_manager::KeyManagerFixture;
use pganalytics_crypto::env_key_manager::{EnvKeyManager, EnvKeyManagerConfig, EnvKeyManagerError};

fn name(text: &str) -> KeyName {
    text.parse().unwrap()
}

fn row() -> KeyContext {
    KeyContext("row".into())
}

fn fresh() -> String {
    STANDARD.encode(os_secret(32).expose())
}

fn open(keys: &[&str], variables: &[(&str, &str)]) -> Result<EnvKeyManager, EnvKeyManagerError> {
    let config = EnvKeyManagerConfig::new("PGA_KEY", keys.iter().map(|key| name(key)));
    let variables: Vec<(OsString, OsString)> =
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    EnvKeyManager::new(&config, variables)
}

fn refused(variables: &[(&str, &str)]) -> EnvKeyManagerError {
    open(&["orders"], variables).unwrap_err()
}

async fn rotated_by_a_restart() -> Option<KeyManagerFixture> {
    let [first, second, other] = [fresh(), fresh(), fresh()];
    let before = [("PGA_KEY_ORDERS_V1", first.as_str()), ("PGA_KEY_PEOPLE_V1", &other)];
    let manager = open(&["orders", "people"], &before).unwrap();
    let after = [&before[..], &[("PGA_KEY_ORDERS_V2", &second)]].concat();
    let rotated = open(&["orders", "people"], &after).unwrap();
    let subject = Subject::real_time(Arc::new(manager) as Arc<dyn KeyManager>);
    let rotation = async { Arc::new(rotated) as Arc<dyn KeyManager> };
    Some(KeyManagerFixture::new(subject, [name("orders"), name("people")]).with_rotation(rotation))
}

mod contract {
    pganalytics_core::key_manager_contract!(super::rotated_by_a_restart());
}

#[tokio::test]
async fn versions_may_be_missing_and_come_in_any_order() {
    let [second, tenth] = [fresh(), fresh()];
    let variables = [("PGA_KEY_ORDERS_V10", tenth.as_str()), ("PGA_KEY_ORDERS_V2", &second)];
    let manager = open(&["orders"], &variables).unwrap();
    assert_eq!(manager.current_version(&name("orders")).await.unwrap(), Some(KeyVersion(10)));
    let only_second = open(&["orders"], &variables[1..]).unwrap();
    let (data_key, wrapped) = only_second.generate(&name("orders"), &row()).await.unwrap();
    assert!(manager.unwrap(&name("orders"), &row(), &wrapped).await.unwrap() == data_key);
}

#[tokio::test]
async fn hex_and_base64_of_one_key_are_the_same_key() {
    let key = os_secret(32);
    let (hexed, base64) = (hex::encode(key.expose()), STANDARD.encode(key.expose()));
    let from_hex = open(&["orders"], &[("PGA_KEY_ORDERS_V1", &hexed)]).unwrap();
    let from_base64 = open(&["orders"], &[("PGA_KEY_ORDERS_V1", &format!("{base64}\n"))]).unwrap();
    let (data_key, wrapped) = from_hex.generate(&name("orders"), &row()).await.unwrap();
    assert!(from_base64.unwrap(&name("orders"), &row(), &wrapped).await.unwrap() == data_key);
}

#[tokio::test]
async fn names_that_look_like_versions_are_told_apart() {
    let [plain, versioned] = [fresh(), fresh()];
    let variables = [("PGA_KEY_A_V1", plain.as_str()), ("PGA_KEY_A_V1_V1", &versioned)];
    let manager = open(&["a", "a-v1"], &variables).unwrap();
    for key in ["a", "a-v1"] {
        assert_eq!(manager.current_version(&name(key)).await.unwrap(), Some(KeyVersion(1)), "{key}");
    }
    let (_, wrapped) = manager.generate(&name("a"), &row()).await.unwrap();
    let other = manager.unwrap(&name("a-v1"), &row(), &wrapped).await.unwrap_err();
    assert!(matches!(other, KeyError::Undecryptable { .. }), "{other:?}");
}

#[test]
fn names_that_share_variables_are_refused() {
    let key = fresh();
    let error = open(&["data-keys", "data_keys"], &[("PGA_KEY_DATA_KEYS_V1", &key)]).unwrap_err();
    assert!(
        matches!(error, EnvKeyManagerError::Ambiguous { variable, .. } if variable == "PGA_KEY_DATA_KEYS_V1")
    );
}

#[test]
fn a_missing_key_is_named_with_its_variable() {
    let key = fresh();
    let error = refused(&[("PGA_KEY_PEOPLE_V1", &key), ("ORDERS_V1", &key)]);
    assert!(
        matches!(&error, EnvKeyManagerError::Missing { variable, .. } if variable == "PGA_KEY_ORDERS_V1")
    );
    assert_eq!(error.to_string(), "key `orders` is not in the environment: `PGA_KEY_ORDERS_V1` is not set");
}

#[test]
fn versions_that_are_none_are_refused() {
    let key = fresh();
    for variable in ["PGA_KEY_ORDERS_V0", "PGA_KEY_ORDERS_V01", "PGA_KEY_ORDERS_V", "PGA_KEY_ORDERS_VALUE"] {
        let error = refused(&[(variable, &key)]);
        assert_eq!(error, EnvKeyManagerError::InvalidVersion { variable: variable.into() });
    }
}

#[test]
fn values_that_are_no_key_are_refused_without_being_shown() {
    let key = fresh();
    for value in ["", "changeme", &key[..43], &key[..40], &"ab".repeat(33), &format!("{key}{key}"), "0x12"] {
        let error = refused(&[("PGA_KEY_ORDERS_V1", value)]);
        assert_eq!(error, EnvKeyManagerError::InvalidKey { variable: "PGA_KEY_ORDERS_V1".into() }, "{value}");
        assert!(value.is_empty() || !format!("{error:?} {error}").contains(value));
    }
}

#[test]
fn weak_keys_are_refused_by_the_name_of_the_variable() {
    let counting: Vec<u8> = (0..32).collect();
    for key in [&[0; 32][..], &counting, b"changeme-changeme-changeme-12345", &[1, 2, 3, 4].repeat(8)] {
        let error = refused(&[("PGA_KEY_ORDERS_V1", &STANDARD.encode(key))]);
        assert!(
            matches!(&error, EnvKeyManagerError::WeakKey { variable, .. } if variable == "PGA_KEY_ORDERS_V1"),
            "{error:?}"
        );
    }
}

#[test]
fn a_rotation_to_the_same_key_is_refused() {
    let key = fresh();
    let error = refused(&[("PGA_KEY_ORDERS_V1", &key), ("PGA_KEY_ORDERS_V2", &key)]);
    let (variable, other) = ("PGA_KEY_ORDERS_V2".to_owned(), "PGA_KEY_ORDERS_V1".to_owned());
    assert_eq!(error, EnvKeyManagerError::RepeatedKey { variable, other });
}

#[test]
fn impossible_prefixes_are_refused() {
    for prefix in ["", "pga", "1A", "A-B", "A=B", "_A"] {
        let error = EnvKeyManager::new(&EnvKeyManagerConfig::new(prefix, []), []).unwrap_err();
        assert_eq!(error, EnvKeyManagerError::InvalidPrefix { prefix: prefix.into() });
    }
}

#[tokio::test]
async fn a_version_that_is_gone_is_undecryptable() {
    let [first, second] = [fresh(), fresh()];
    let old = open(&["orders"], &[("PGA_KEY_ORDERS_V1", &first)]).unwrap();
    let new = open(&["orders"], &[("PGA_KEY_ORDERS_V2", &second)]).unwrap();
    let wrapped: WrappedKey = old.wrap(&name("orders"), &row(), &DataKey::generate()).await.unwrap();
    let error = new.unwrap(&name("orders"), &row(), &wrapped).await.unwrap_err();
    assert!(matches!(error, KeyError::Undecryptable { .. }), "{error:?}");
}

#[test]
fn values_are_never_printed() {
    let key = fresh();
    let manager = open(&["orders"], &[("PGA_KEY_ORDERS_V1", &key)]).unwrap();
    assert_eq!(format!("{manager:?}"), "EnvKeyManager { keys: [\"orders\"], .. }");
}
