//! The contract of [`FieldCipher`], a function for each clause.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::error::{PortError, Retry};
use crate::keys::{
    BlindIndex, Ciphertext, FieldCipher, FieldCipherError, FieldRef, OpenRequest, SealRequest,
};
use crate::secret::SecretBytes;
use crate::testing::Subject;
use crate::testing::support::skip;

/// Runs the contract of `FieldCipher` on the adapter that the expression yields (`async` → `Option<FieldCipherFixture>`).
#[macro_export]
macro_rules! field_cipher_contract {
    ($fixture:expr) => {
        $crate::contract_tests!(
            $crate::testing::field_cipher,
            $fixture,
            [
                a_sealed_value_opens_in_its_place,
                a_moved_value_does_not_open,
                every_changed_byte_is_refused,
                two_sealings_differ,
                batches_are_in_order,
                one_bad_value_does_not_hide_the_others,
                a_blind_index_finds_equal_values,
                an_outage_is_no_verdict,
                what_is_made_now_bears_the_mark,
            ]
        );
    };
}

const VALUE: &[u8] = b"a value that is easy to recognise";
const ROW: Uuid = Uuid::from_u128(1);

type KeyServiceCalls = Box<dyn Fn() -> usize + Send + Sync>;

/// A cipher under test, two purposes that it has keys for, and what else is known of it.
pub struct FieldCipherFixture {
    subject: Subject<dyn FieldCipher>,
    purpose: &'static str,
    other_purpose: &'static str,
    key_service_calls: Option<KeyServiceCalls>,
    unreachable: Option<Arc<dyn FieldCipher>>,
}

impl FieldCipherFixture {
    /// A cipher and two purposes that it can seal for. Tables and columns are the suite's.
    pub fn new(subject: Subject<dyn FieldCipher>, purposes: [&'static str; 2]) -> Self {
        let [purpose, other_purpose] = purposes;
        Self { subject, purpose, other_purpose, key_service_calls: None, unreachable: None }
    }

    /// How often the cipher has asked its key service so far. Without it clause 5 does not count.
    #[must_use]
    pub fn counting(self, key_service_calls: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        Self { key_service_calls: Some(Box::new(key_service_calls)), ..self }
    }

    /// A cipher on the same keys whose key service is away, and that has none of them at hand. Without it clause 8 is
    /// skipped.
    #[must_use]
    pub fn with_unreachable(self, cipher: Arc<dyn FieldCipher>) -> Self {
        Self { unreachable: Some(cipher), ..self }
    }

    fn cipher(&self) -> &dyn FieldCipher {
        &*self.subject.port
    }

    fn field(&self) -> FieldRef {
        FieldRef { table: "contract_table", column: "contract_column", purpose: self.purpose }
    }

    async fn seal(&self, value: &[u8]) -> Ciphertext {
        let request = SealRequest { field: self.field(), row: ROW, value };
        let mut sealed = self.cipher().seal_batch(&[request]).await.expect("the purpose has a key");
        assert_eq!(sealed.len(), 1);
        sealed.remove(0)
    }

    async fn open(&self, ciphertext: &Ciphertext) -> Result<SecretBytes, FieldCipherError> {
        self.open_at(self.field(), ROW, ciphertext).await
    }

    async fn open_at(
        &self,
        field: FieldRef,
        row: Uuid,
        ciphertext: &Ciphertext,
    ) -> Result<SecretBytes, FieldCipherError> {
        let mut opened = self.cipher().open_batch(&[OpenRequest { field, row, ciphertext }]).await?;
        assert_eq!(opened.len(), 1);
        opened.remove(0)
    }

    fn calls(&self) -> usize {
        self.key_service_calls.as_ref().map_or(0, |calls| calls())
    }
}

fn assert_undecryptable(result: Result<SecretBytes, FieldCipherError>, expected: FieldRef, case: &str) {
    match result {
        Err(FieldCipherError::Undecryptable { table, column }) => {
            assert_eq!((table, column), (expected.table, expected.column));
        }
        other => panic!("{case}: not undecryptable but: {other:?}"),
    }
}

/// Clause 1.
pub async fn a_sealed_value_opens_in_its_place(fixture: FieldCipherFixture) {
    for value in [VALUE, b"", b"\0", &[255; 1], &[7; 100_000]] {
        let sealed = fixture.seal(value).await;
        for _ in 0..2 {
            assert_eq!(fixture.open(&sealed).await.unwrap().expose(), value);
        }
    }
}

/// Clause 2.
pub async fn a_moved_value_does_not_open(fixture: FieldCipherFixture) {
    let field = fixture.field();
    let places = [
        (FieldRef { table: "contract_tabl", ..field }, ROW),
        (FieldRef { column: "contract_columns", ..field }, ROW),
        (FieldRef { table: field.column, column: field.table, ..field }, ROW),
        // The same letters when one follows the other.
        (FieldRef { table: "contract_tablec", column: "ontract_column", ..field }, ROW),
        (FieldRef { purpose: fixture.other_purpose, ..field }, ROW),
        (field, Uuid::from_u128(2)),
        (field, Uuid::nil()),
    ];
    for value in [VALUE, b""] {
        let sealed = fixture.seal(value).await;
        for (field, row) in places {
            let opened = fixture.open_at(field, row, &sealed).await;
            assert_undecryptable(opened, field, &format!("{field:?} {row}"));
        }
        assert_eq!(fixture.open(&sealed).await.unwrap().expose(), value);
    }
}

/// Clause 3.
pub async fn every_changed_byte_is_refused(fixture: FieldCipherFixture) {
    let sealed = fixture.seal(VALUE).await;
    let refuse = async |bytes: Vec<u8>, case: String| {
        let opened = fixture.open(&Ciphertext(Bytes::from(bytes))).await;
        assert_undecryptable(opened, fixture.field(), &case);
    };
    for position in 0..sealed.0.len() {
        for bit in [0, 7] {
            let mut bytes = sealed.0.to_vec();
            bytes[position] ^= 1 << bit;
            refuse(bytes, format!("bit {bit} of byte {position}")).await;
        }
        refuse(sealed.0[..position].to_vec(), format!("cut to {position}")).await;
        refuse(sealed.0[position + 1..].to_vec(), format!("without the first {}", position + 1)).await;
    }
    let extended = [&sealed.0[..], b"\0"].concat();
    for bytes in [sealed.0.repeat(2), extended, VALUE.to_vec(), vec![0; 100_000], vec![255; 64]] {
        let case = format!("{} bytes", bytes.len());
        refuse(bytes, case).await;
    }
}

/// Clause 4.
pub async fn two_sealings_differ(fixture: FieldCipherFixture) {
    let mut seen = HashSet::new();
    for _ in 0..8 {
        let sealed = fixture.seal(VALUE).await.0;
        assert!(!sealed.windows(8).any(|part| VALUE.windows(8).any(|value| value == part)));
        assert!(seen.insert(sealed));
    }
    assert_ne!(fixture.seal(b"").await, fixture.seal(b"").await);
}

/// Clause 5.
pub async fn batches_are_in_order(fixture: FieldCipherFixture) {
    assert_eq!(fixture.cipher().seal_batch(&[]).await.unwrap(), []);
    assert!(fixture.cipher().open_batch(&[]).await.unwrap().is_empty());

    let values: Vec<String> = (0..64).map(|number| format!("value {number}")).collect();
    let columns = ["even", "odd"];
    let place = |index: usize| {
        (FieldRef { column: columns[index % 2], ..fixture.field() }, Uuid::from_u128(index as u128))
    };
    let requests = values.iter().enumerate().map(|(index, value)| {
        let (field, row) = place(index);
        SealRequest { field, row, value: value.as_bytes() }
    });
    let before = fixture.calls();
    let sealed = fixture.cipher().seal_batch(&requests.collect::<Vec<_>>()).await.unwrap();
    let between = fixture.calls();
    assert_eq!(sealed.len(), values.len());
    let requests = sealed.iter().enumerate().map(|(index, ciphertext)| {
        let (field, row) = place(index);
        OpenRequest { field, row, ciphertext }
    });
    let opened = fixture.cipher().open_batch(&requests.collect::<Vec<_>>()).await.unwrap();
    let after = fixture.calls();
    let opened: Vec<SecretBytes> = opened.into_iter().map(|value| value.unwrap()).collect();
    assert!(opened.iter().map(SecretBytes::expose).eq(values.iter().map(String::as_bytes)));

    assert!(between - before <= 1, "sealing one batch asked {} times", between - before);
    assert!(after - between <= 1, "opening one batch asked {} times", after - between);
    if fixture.key_service_calls.is_none() {
        skip("batches_are_in_order", "calls of the key service are not counted");
    }
}

/// Clause 6.
pub async fn one_bad_value_does_not_hide_the_others(fixture: FieldCipherFixture) {
    let first = fixture.seal(b"first").await;
    let last = fixture.seal(b"last").await;
    let garbage = Ciphertext(Bytes::from("garbage"));
    let mut changed = first.0.to_vec();
    *changed.last_mut().expect("a ciphertext has bytes") ^= 1;
    let changed = Ciphertext(changed.into());
    let requests = [&first, &garbage, &changed, &last].map(|ciphertext| OpenRequest {
        field: fixture.field(),
        row: ROW,
        ciphertext,
    });
    let opened = fixture.cipher().open_batch(&requests).await.unwrap();
    let values: Vec<Option<&[u8]>> =
        opened.iter().map(|value| value.as_ref().ok().map(SecretBytes::expose)).collect();
    assert_eq!(values, [Some(&b"first"[..]), None, None, Some(b"last")]);
    for value in opened.into_iter().filter(Result::is_err) {
        assert_undecryptable(value, fixture.field(), "a bad value");
    }
}

/// Clause 7.
pub async fn a_blind_index_finds_equal_values(fixture: FieldCipherFixture) {
    let field = fixture.field();
    let columns = [
        field,
        FieldRef { column: "another_column", ..field },
        FieldRef { table: "another_table", ..field },
        FieldRef { table: "contract_tablec", column: "ontract_column", ..field },
        FieldRef { purpose: fixture.other_purpose, ..field },
    ];
    let mut seen: HashSet<BlindIndex> = HashSet::new();
    for column in columns {
        for value in [VALUE, &VALUE[1..], b"A value that is easy to recognise", b"", b"\0"] {
            let indexes = fixture.cipher().blind_indexes(&column, value).await.unwrap();
            assert!(!indexes.is_empty());
            assert_eq!(fixture.cipher().blind_indexes(&column, value).await.unwrap(), indexes);
            for index in indexes {
                assert!(!index.0.windows(8).any(|part| VALUE.windows(8).any(|value| value == part)));
                assert!(seen.insert(index), "{column:?} shares an index");
            }
        }
    }
}

/// Clause 8.
pub async fn an_outage_is_no_verdict(fixture: FieldCipherFixture) {
    fn assert_unavailable<T>(result: Result<T, FieldCipherError>, method: &str) {
        match result {
            Err(error @ FieldCipherError::KeyUnavailable { .. }) => {
                assert_eq!(error.retry(), Retry::Later, "{method}");
            }
            Err(error) => panic!("{method}: not an unavailable key but: {error:?}"),
            Ok(_) => panic!("{method}: succeeded without a key"),
        }
    }
    let Some(unreachable) = &fixture.unreachable else {
        return skip("an_outage_is_no_verdict", "the fixture has no cipher without its key service");
    };
    let (field, row) = (fixture.field(), ROW);
    let ciphertext = &fixture.seal(VALUE).await;
    assert_unavailable(unreachable.seal_batch(&[SealRequest { field, row, value: VALUE }]).await, "seal");
    assert_unavailable(unreachable.blind_indexes(&field, VALUE).await, "blind_indexes");
    // Whether the batch fails or each value does is left to the cipher.
    let opened = unreachable.open_batch(&[OpenRequest { field, row, ciphertext }]).await;
    assert_unavailable(opened.and_then(|values| values.into_iter().collect::<Result<Vec<_>, _>>()), "open");
}

/// Clause 9.
pub async fn what_is_made_now_bears_the_mark(fixture: FieldCipherFixture) {
    let marks = fixture.cipher().marks(fixture.purpose).await.unwrap();
    for value in [VALUE, b""] {
        let sealed = fixture.seal(value).await.0;
        assert!(sealed.starts_with(&marks.sealed), "{marks:?} is not on a sealed value");
    }
    let Some(mark) = &marks.index else { return };
    let indexes = fixture.cipher().blind_indexes(&fixture.field(), VALUE).await.unwrap();
    assert!(indexes[0].0.starts_with(mark), "{marks:?} is not on the first index");
    let others = indexes[1..].iter().filter(|index| index.0.starts_with(mark));
    assert_eq!(others.count(), 0, "{marks:?} is on the index of an older key");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::Faulty;
    use crate::testing::doubles::TokenVault;

    async fn vault() -> Option<FieldCipherFixture> {
        let asked = Arc::new(AtomicUsize::new(0));
        let cipher = Faulty::new(Box::new(TokenVault::new(Arc::clone(&asked), true)));
        let subject = Subject::real_time(Arc::new(cipher) as Arc<dyn FieldCipher>);
        let fixture = FieldCipherFixture::new(subject, ["personal", "secret"])
            .counting(move || asked.load(Ordering::SeqCst))
            .with_unreachable(Arc::new(TokenVault::new(Arc::default(), false)));
        Some(fixture)
    }

    crate::field_cipher_contract!(vault());
}
