//! Verifies an audit log as an outsider: without the database, the server or anything of them but the key, which has to come to
//! you by another way than the files.
//!
//! ```text
//! cargo run -p examples --example verify_audit_offline -- example.com/audit/1 'example.com/audit+1a2b3c4d+AZ…' tiles/era-1 events.jsonl
//! ```
//!
//! The folder is a copy of what the log keeps in its backup target: `checkpoint`, `checkpoints/…` and `tile/…`. Each line of the
//! other files is an event as the server exports it (`/api/v1/audit/events/export?format=jsonl`) or as its file sink writes it, or
//! the proof of one (`/api/v1/audit/events/{id}/proof`). The checkpoint's signature is verified, the whole tree from its entries up
//! to the root that was signed, the chain of anchored checkpoints, and that each event of the files is what the log has. An
//! export has no salts, so of personal fields only those in proofs can be verified. A file that begins with the name of the log is
//! a checkpoint that you kept from earlier, which the log must have as its beginning. Where keys followed each other, give all
//! of them with commas between. A key of a witness among them is demanded: it must have cosigned the history of the files, so
//! that nobody was shown another one up to there.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use pganalytics_core::audit::{AuditEvent, EventProof, Leaf, LeafRow, PersonalField};
use pganalytics_core::backup::{
    BackupTarget, BackupTargetError, Capabilities, ObjectInfo, ObjectPath, PutMode, Sha256Digest, Upload,
};
use pganalytics_core::error::BackendError;
use pganalytics_core::tlog::{
    AuthenticTree, CheckpointPolicy, InvalidPolicy, LogVerifier, NoteKeyKind, Origin, SignedCheckpoint,
    TILE_WIDTH, TileKind, TilePath, TileReader, TreeSize, VerifierKey,
};
use pganalytics_crypto::ed25519::verify;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// What was verified.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verified {
    entries: u64,
    /// So many of them are cosigned by the witnesses that are demanded.
    cosigned: u64,
    anchors: u64,
    kept: u64,
    events: u64,
    personal_fields: u64,
}

/// Whom you believe.
struct Trust {
    log: CheckpointPolicy,
    /// What is cosigned must be so by all of the witnesses.
    cosigned: Option<CheckpointPolicy>,
}

impl Trust {
    /// Believes a log that these keys sign, and demands each witness that has a key among them.
    fn new(log: Origin, keys: Vec<VerifierKey>) -> Result<Self, InvalidPolicy> {
        let (witnesses, keys): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| key.kind() == NoteKeyKind::Cosignature);
        let log = CheckpointPolicy::new(log, keys)?;
        let cosigned = match witnesses.is_empty() {
            true => None,
            false => Some(log.clone().with_every_witness(witnesses)?),
        };
        Ok(Self { log, cosigned })
    }
}

/// Verifies a log, and the events of these files.
async fn verify_log(trust: &Trust, tiles: &Path, files: &[PathBuf]) -> anyhow::Result<Verified> {
    let policy = &trust.log;
    let reader = TileReader::new(Arc::new(Folder(tiles.to_owned())));
    let published = reader.checkpoint().await?.context("the folder has no `checkpoint`")?;
    let published = published.verify(policy, &verify)?;
    let checkpoint = published.checkpoint().clone();
    println!("{} has {} entries, signed with a trusted key", checkpoint.origin(), checkpoint.size());
    let mut tree = AuthenticTree::open(reader.clone(), checkpoint.clone()).await?;
    LogVerifier::new(tree.clone()).verify_bundles(&mut |_| {}).await?;
    let cosigned = check_cosigned(trust, &reader, &mut tree).await?;
    let anchors = follow_anchors(policy, &reader, &mut tree).await?;
    let log = Log::read(&reader, checkpoint.size()).await?;
    let mut verified = Verified { entries: checkpoint.size().0, cosigned, anchors, ..Verified::default() };
    for file in files {
        let mut file_lines = BufReader::new(fs::File::open(file)?);
        if file_lines.fill_buf()?.starts_with(checkpoint.origin().as_str().as_bytes()) {
            let place = || format!("{} was kept from this log", file.display());
            let kept = SignedCheckpoint::parse(&fs::read(file)?).with_context(place)?;
            let kept = kept.verify(policy, &verify).with_context(place)?;
            tree.check_grown_from(kept.checkpoint()).await.with_context(place)?;
            verified.kept += 1;
            continue;
        }
        let lines = file_lines.lines();
        for (number, line) in lines.enumerate() {
            let place = || format!("{}, line {}", file.display(), number + 1);
            let line = line?;
            let event: Value = serde_json::from_str(&line).with_context(place)?;
            if event.get("proof").is_some() {
                verified.personal_fields +=
                    check_proof(&line, policy, &mut tree).await.with_context(place)?;
            } else {
                check(event, &log).with_context(place)?;
            }
            verified.events += 1;
        }
    }
    Ok(verified)
}

/// What the witnesses cosigned is the beginning of this tree; yields its size.
async fn check_cosigned(trust: &Trust, reader: &TileReader, tree: &mut AuthenticTree) -> anyhow::Result<u64> {
    let Some(policy) = &trust.cosigned else { return Ok(0) };
    let cosigned = reader.cosigned().await?.context("the folder has no `checkpoint.cosigned`")?;
    let cosigned = cosigned.verify(policy, &verify).context("`checkpoint.cosigned`")?;
    tree.check_grown_from(cosigned.checkpoint()).await.context("`checkpoint.cosigned`")?;
    Ok(cosigned.checkpoint().size().0)
}

/// Each anchored checkpoint is signed, and the tree has grown through it.
async fn follow_anchors(
    policy: &CheckpointPolicy,
    reader: &TileReader,
    tree: &mut AuthenticTree,
) -> anyhow::Result<u64> {
    let (mut size, mut anchors) = (TreeSize::EMPTY, 0);
    while size < tree.size() {
        let anchor = reader.anchored_after(size).await?;
        let anchor = anchor.with_context(|| format!("no checkpoint is anchored after {size} entries"))?;
        let anchor = anchor.verify(policy, &verify)?;
        tree.check_grown_from(anchor.checkpoint()).await?;
        ensure!(anchor.checkpoint().size() > size, "the checkpoint after {size} entries has none more");
        size = anchor.checkpoint().size();
        anchors += 1;
    }
    Ok(anchors)
}

/// Checks the proof of an event, and that it is of this tree; yields how many personal fields were verified.
async fn check_proof(
    proof: &str,
    policy: &CheckpointPolicy,
    tree: &mut AuthenticTree,
) -> anyhow::Result<u64> {
    let proved = EventProof::parse(proof.as_bytes())?.verify(policy, &verify)?;
    let its_checkpoint = || format!("the checkpoint of the proof of event {}", proved.row().id);
    tree.check_grown_from(proved.checkpoint().checkpoint()).await.with_context(its_checkpoint)?;
    let opened = PersonalField::ALL.into_iter().filter(|field| proved.personal(*field).is_some());
    Ok(opened.count() as u64)
}

/// Checks that the log has an exported event.
fn check(event: Value, log: &Log) -> anyhow::Result<()> {
    let event = match event.get("actor_kind") {
        Some(_) => serde_json::from_value(event)?,
        None => Exported::from(serde_json::from_value::<AuditEvent>(event)?),
    };
    let entry = log.entry(event.id).with_context(|| format!("the log has no event {}", event.id))?;
    let Leaf::Row(row) = Leaf::parse(entry)? else {
        bail!("the log has only a digest of it: ask for its proof")
    };
    ensure!(event.is_in(&row), "the log has {} instead", row.to_json());
    Ok(())
}

/// An exported event without its personal fields.
#[derive(Debug, Deserialize)]
struct Exported {
    id: Uuid,
    at: DateTime<Utc>,
    actor_kind: String,
    actor_id: Option<String>,
    actor_role: Option<String>,
    action: String,
    resource_type: Option<String>,
    resource_id: Option<String>,
    outcome: String,
    reason: Option<String>,
    request_id: Option<String>,
    session_id: Option<String>,
    provider: Option<String>,
}

impl Exported {
    /// Whether it is what the log has.
    fn is_in(&self, row: &LeafRow<'_>) -> bool {
        row.at().map(|at| at.timestamp_micros()) == Some(self.at.timestamp_micros())
            && row.actor_kind == self.actor_kind
            && row.actor_id == self.actor_id.as_deref()
            && row.actor_role == self.actor_role.as_deref()
            && row.action == self.action
            && row.resource_type == self.resource_type.as_deref()
            && row.resource_id == self.resource_id.as_deref()
            && row.outcome == self.outcome
            && row.reason == self.reason.as_deref()
            && row.request_id == self.request_id.as_deref()
            && row.session_id == self.session_id.as_deref()
            && row.provider == self.provider.as_deref()
    }
}

impl From<AuditEvent> for Exported {
    fn from(event: AuditEvent) -> Self {
        let (resource_type, resource_id) =
            event.resource.map(|resource| (resource.kind, resource.id)).unzip();
        Self {
            id: event.id.0,
            at: event.at,
            actor_kind: event.actor.kind.as_str().to_owned(),
            actor_id: event.actor.id,
            actor_role: event.actor.role,
            action: event.action.to_string(),
            resource_type,
            resource_id: resource_id.flatten(),
            outcome: event.outcome.as_str().to_owned(),
            reason: event.reason,
            request_id: event.request_id,
            session_id: event.session.map(|session| session.to_string()),
            provider: event.provider,
        }
    }
}

/// The entries of the log by the ids of their events. They were verified; of a log that does not fit in memory keep the places.
struct Log(HashMap<Uuid, Bytes>);

impl Log {
    async fn read(reader: &TileReader, size: TreeSize) -> anyhow::Result<Self> {
        let mut entries = HashMap::new();
        for tile in 0..size.0.div_ceil(TILE_WIDTH) {
            let path = TilePath::in_tree(TileKind::Entries, tile, size).context("the tree has this tile")?;
            for entry in reader.entries(&path).await? {
                if let Ok(Leaf::Row(row)) = Leaf::parse(&entry) {
                    entries.insert(row.id, entry.clone());
                }
            }
        }
        Ok(Self(entries))
    }

    fn entry(&self, id: Uuid) -> Option<&[u8]> {
        self.0.get(&id).map(|entry| &entry[..])
    }
}

/// A folder that is only read.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn read(&self, path: &ObjectPath) -> Result<Option<Bytes>, BackupTargetError> {
        match fs::read(self.0.join(path.as_str())) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackupTargetError::Backend(BackendError::never("folder", error))),
        }
    }
}

const READ_ONLY: BackupTargetError =
    BackupTargetError::Unsupported { target: "a folder that is only read", operation: "do more than read" };

#[async_trait]
impl BackupTarget for Folder {
    fn name(&self) -> &'static str {
        "folder"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn get(
        &self,
        path: &ObjectPath,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BackupTargetError> {
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        let within = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
        let range = range.map_or(0..bytes.len(), |range| within(range.start)..within(range.end));
        Ok(Some(bytes.slice(range)))
    }

    async fn put(&self, _: &ObjectPath, _: Bytes, _: PutMode) -> Result<(), BackupTargetError> {
        Err(READ_ONLY)
    }

    async fn upload(&self, _: &ObjectPath, _: PutMode) -> Result<Box<dyn Upload>, BackupTargetError> {
        Err(READ_ONLY)
    }

    async fn head(&self, _: &ObjectPath) -> Result<Option<ObjectInfo>, BackupTargetError> {
        Err(READ_ONLY)
    }

    async fn list(
        &self,
        _: Option<&ObjectPath>,
        _: Option<&ObjectPath>,
        _: usize,
    ) -> Result<Vec<ObjectInfo>, BackupTargetError> {
        Err(READ_ONLY)
    }

    async fn delete(&self, _: &ObjectPath) -> Result<bool, BackupTargetError> {
        Err(READ_ONLY)
    }

    async fn checksum(&self, path: &ObjectPath) -> Result<Option<Sha256Digest>, BackupTargetError> {
        Ok(self.read(path)?.map(|bytes| Sha256Digest::of(&bytes)))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [log, keys, tiles, files @ ..] = &arguments[..] else {
        bail!("give the name of the log, its key, the folder of its tiles, and files of events");
    };
    let keys = keys.split(',').map(str::parse).collect::<Result<Vec<VerifierKey>, _>>()?;
    let trust = Trust::new(log.parse()?, keys)?;
    let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
    let Verified { entries, cosigned, anchors, kept, events, personal_fields } =
        verify_log(&trust, Path::new(tiles), &files).await?;
    println!("{entries} entries lead to the root that was signed, through {anchors} anchored checkpoints");
    println!("the witnesses that you named have cosigned the first {cosigned} of them");
    println!("{kept} checkpoints that were kept are of the same history");
    println!(
        "{events} events of the files are in the log; {personal_fields} personal fields are as recorded"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use pganalytics_core::audit::{Actor, Opening, Outcome, Resource};
    use pganalytics_core::clock::SystemClock;
    use pganalytics_core::ids::EventId;
    use pganalytics_core::signing::MemorySigningKeyStore;
    use pganalytics_core::tlog::{
        Checkpoint, Cosigner, LeafIndex, NoteSigner, TileStore, TreeEdge, TreeGrowth,
    };
    use pganalytics_crypto::ed25519::{Ed25519Signer, Ed25519SignerConfig};
    use pganalytics_crypto::file_key_manager::{FileKeyManager, FileKeyManagerConfig};
    use pganalytics_store::LocalBackupTarget;
    use tempfile::TempDir;

    use super::*;

    const LOG: &str = "example.com/audit/1";
    const SALT: [u8; 16] = [7; 16];

    fn event(number: u128) -> AuditEvent {
        let (at, action) = ("2026-01-01T00:00:00Z".parse().unwrap(), "user.update".parse().unwrap());
        let id = EventId(Uuid::from_u128(number));
        let mut event = AuditEvent::new(id, at, Actor::system("test"), action, Outcome::Success)
            .with_resource(Resource::new("user", number));
        event.actor.name = None;
        event
    }

    /// The entry of an event with the name of its actor.
    fn entry(event: &AuditEvent) -> Bytes {
        let mut entry = vec![1];
        let mut put = |value: Option<&[u8]>| {
            let length = value.map_or(-1, |value| value.len() as i32);
            entry.extend_from_slice(&length.to_be_bytes());
            entry.extend_from_slice(value.unwrap_or_default());
        };
        let micros = event.at.timestamp_micros() - 946_684_800_000_000;
        put(Some(&micros.to_be_bytes()));
        put(Some(event.id.0.as_bytes()));
        put(Some(&[8; 16]));
        put(Some(&0_i64.to_be_bytes()));
        let resource = event.resource.as_ref().unwrap();
        let (kind, action) = (event.actor.kind.as_str(), event.action.as_str());
        for text in [Some(kind), None, None, Some(action), Some(&*resource.kind), resource.id.as_deref()] {
            put(text.map(str::as_bytes));
        }
        for text in [Some(event.outcome.as_str()), None, None, None, None] {
            put(text.map(str::as_bytes));
        }
        put(Some(&PersonalField::ActorName.commitment(&SALT, b"Ada")));
        for _ in 0..4 {
            put(None);
        }
        put(Some(&1_i16.to_be_bytes()));
        put(Some(&700_u64.to_be_bytes()));
        entry.into()
    }

    struct Fixture {
        folder: TempDir,
        signer: NoteSigner,
    }

    async fn signer(folder: &Path) -> Arc<Ed25519Signer> {
        let key = "sign".parse().unwrap();
        let keys = FileKeyManagerConfig::new(folder).creating(["sign".parse().unwrap()]);
        let keys = Arc::new(FileKeyManager::open(&keys, Arc::new(SystemClock)).unwrap());
        let (store, config) = (Arc::new(MemorySigningKeyStore::new()), Ed25519SignerConfig::new(key));
        Arc::new(Ed25519Signer::connect(store, keys, Arc::new(SystemClock), config).await.unwrap())
    }

    impl Fixture {
        /// A log of 300 events in three seals.
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let signer = signer(&folder.path().join("keys")).await;
            let signer = NoteSigner::new("example.com/audit".parse().unwrap(), signer);
            let fixture = Self { folder, signer };
            let mut edge = TreeEdge::new();
            for seal in 0..3 {
                edge = fixture.seal(edge, seal * 100..seal * 100 + 100).await;
            }
            fixture
        }

        fn tiles(&self) -> PathBuf {
            self.folder.path().join("tiles")
        }

        async fn trust(&self) -> Trust {
            Trust::new(LOG.parse().unwrap(), self.signer.verifier_keys().await.unwrap()).unwrap()
        }

        /// A witness cosigns a log of these events; yields its key.
        async fn cosign(&self, events: Range<u128>) -> VerifierKey {
            let signer = signer(&self.folder.path().join("keys of the witness")).await;
            let witness = Cosigner::new("b.example".parse().unwrap(), signer, Arc::new(SystemClock));
            let mut growth = TreeGrowth::new(TreeEdge::new());
            for number in events {
                growth.append(entry(&event(number))).unwrap();
            }
            let checkpoint = Checkpoint::new(LOG.parse().unwrap(), growth.size(), growth.root()).unwrap();
            let text = checkpoint.to_text().unwrap();
            let cosignature = witness.cosign(&text).await.unwrap();
            let note = self.signer.sign_note(text).await.unwrap().with_signature(cosignature).unwrap();
            fs::write(self.tiles().join("checkpoint.cosigned"), note.to_string()).unwrap();
            witness.verifier_keys().await.unwrap().remove(0)
        }

        async fn seal(&self, edge: TreeEdge, events: Range<u128>) -> TreeEdge {
            let store = TileStore::new(Arc::new(LocalBackupTarget::open(self.tiles()).unwrap())).unwrap();
            let mut growth = TreeGrowth::new(edge);
            for number in events {
                growth.append(entry(&event(number))).unwrap();
            }
            let checkpoint = Checkpoint::new(LOG.parse().unwrap(), growth.size(), growth.root()).unwrap();
            let note = self.signer.sign_note(checkpoint.to_text().unwrap()).await.unwrap();
            store.extend(&growth, &SignedCheckpoint::new(note).unwrap()).await.unwrap();
            growth.into_edge()
        }

        async fn proof(&self, number: u64, name: &str) -> String {
            let reader = TileReader::new(Arc::new(Folder(self.tiles())));
            let published = reader.checkpoint().await.unwrap().unwrap();
            let mut tree = AuthenticTree::open(reader, published.unverified().clone()).await.unwrap();
            let index = LeafIndex(number);
            let proof = tree.prove_inclusion(index).await.unwrap();
            let opening = Opening { field: PersonalField::ActorName, value: name.into(), salt: SALT.into() };
            let entry = entry(&event(number.into()));
            EventProof::new((&entry, None), (index, proof), published, vec![opening]).to_string()
        }

        async fn verify(&self, lines: &[String]) -> anyhow::Result<Verified> {
            let file = self.folder.path().join("events.jsonl");
            fs::write(&file, lines.join("\n")).unwrap();
            verify_log(&self.trust().await, &self.tiles(), &[file]).await
        }
    }

    fn exported(event: &AuditEvent) -> String {
        serde_json::to_string(event).unwrap()
    }

    /// As the API exports it.
    fn line_of_the_api(number: u128, outcome: &str) -> String {
        let Exported { id, at, actor_kind, actor_id, action, resource_type, resource_id, .. } =
            Exported::from(event(number));
        serde_json::json!({
            "id": id, "at": at, "actor_kind": actor_kind, "actor_id": actor_id, "actor_name": "Ada",
            "actor_role": null, "action": action, "resource_type": resource_type, "resource_id": resource_id,
            "outcome": outcome, "reason": null, "request_id": null, "session_id": null, "provider": null,
            "address": null, "user_agent": null, "changes": null, "erased": false,
        })
        .to_string()
    }

    #[tokio::test]
    async fn exported_events_and_proofs_are_verified() {
        let fixture = Fixture::new().await;
        let sink = [exported(&event(0)), exported(&event(299))];
        let api = [line_of_the_api(7, "success"), fixture.proof(123, "Ada").await];
        let verified = fixture.verify(&[sink, api].concat()).await.unwrap();
        assert_eq!(
            verified,
            Verified { entries: 300, anchors: 3, events: 4, personal_fields: 1, ..Verified::default() }
        );
    }

    #[tokio::test]
    async fn events_that_the_log_does_not_have_are_named() {
        let fixture = Fixture::new().await;
        let mut edited = event(7);
        edited.outcome = Outcome::Denied;
        let forged = [line_of_the_api(7, "denied"), fixture.proof(123, "Eve").await];
        let lines = [vec![exported(&edited), exported(&event(300)), "{}".to_owned()], forged.into()].concat();
        for line in lines {
            let error = fixture.verify(&[exported(&event(1)), line]).await.unwrap_err();
            assert!(error.to_string().ends_with("line 2"), "{error:#}");
        }
    }

    #[tokio::test]
    async fn proof_of_another_history_is_refused() {
        let fixture = Fixture::new().await;
        let proof = fixture.proof(123, "Ada").await;
        fs::remove_dir_all(fixture.tiles()).unwrap();
        fixture.seal(TreeEdge::new(), 100..400).await;
        let error = fixture.verify(&[exported(&event(123)), proof]).await.unwrap_err();
        assert!(format!("{error:#}").contains("line 2: the checkpoint of the proof"), "{error:#}");
    }

    #[tokio::test]
    async fn tiles_that_were_changed_are_refused() {
        let fixture = Fixture::new().await;
        let bundle = fixture.tiles().join("tile/entries/000");
        let mut entries = fs::read(&bundle).unwrap();
        entries[100] ^= 1;
        fs::write(&bundle, entries).unwrap();
        let error = fixture.verify(&[]).await.unwrap_err();
        assert!(error.to_string().contains("entry 0"), "{error:#}");
    }

    #[tokio::test]
    async fn log_that_goes_back_behind_a_kept_checkpoint_or_beside_it_is_refused() {
        let fixture = Fixture::new().await;
        let kept = fixture.folder.path().join("kept");
        let keep = async |growth: &TreeGrowth| {
            let checkpoint = Checkpoint::new(LOG.parse().unwrap(), growth.size(), growth.root()).unwrap();
            let note = fixture.signer.sign_note(checkpoint.to_text().unwrap()).await.unwrap();
            fs::write(&kept, note.to_string()).unwrap();
            verify_log(&fixture.trust().await, &fixture.tiles(), std::slice::from_ref(&kept)).await
        };
        let mut growth = TreeGrowth::new(TreeEdge::new());
        for number in 0..150 {
            growth.append(entry(&event(number))).unwrap();
        }
        assert_eq!(keep(&growth).await.unwrap().kept, 1);
        growth.append(entry(&event(0))).unwrap();
        let error = keep(&growth).await.unwrap_err();
        assert!(format!("{error:#}").contains("two histories"), "{error:#}");
        for number in 151..=300 {
            growth.append(entry(&event(number))).unwrap();
        }
        let error = keep(&growth).await.unwrap_err();
        assert!(format!("{error:#}").contains("shrank from 301 to 300"), "{error:#}");
    }

    #[tokio::test]
    async fn history_that_a_witness_did_not_cosign_is_refused() {
        let fixture = Fixture::new().await;
        let verify_with = async |witness| {
            let keys = [fixture.signer.verifier_keys().await.unwrap(), vec![witness]].concat();
            verify_log(&Trust::new(LOG.parse().unwrap(), keys).unwrap(), &fixture.tiles(), &[]).await
        };
        let witness = fixture.cosign(0..200).await;
        assert_eq!(verify_with(witness.clone()).await.unwrap().cosigned, 200);
        let stranger = VerifierKey::new("b.example".parse().unwrap(), witness.kind(), [7; 32]);
        verify_with(stranger).await.unwrap_err();
        let witness = fixture.cosign(1..201).await;
        let error = verify_with(witness.clone()).await.unwrap_err();
        assert!(format!("{error:#}").contains("two histories"), "{error:#}");
        fs::remove_file(fixture.tiles().join("checkpoint.cosigned")).unwrap();
        verify_with(witness).await.unwrap_err();
    }

    #[tokio::test]
    async fn log_of_another_key_or_without_its_anchors_is_refused() {
        let fixture = Fixture::new().await;
        let others = Fixture::new().await.trust().await;
        verify_log(&others, &fixture.tiles(), &[]).await.unwrap_err();
        fs::remove_file(fixture.tiles().join("checkpoints/after-00000000000000000100")).unwrap();
        let error = fixture.verify(&[]).await.unwrap_err();
        assert!(error.to_string().contains("after 100 entries"), "{error:#}");
    }
}
