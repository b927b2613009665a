use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flate2::read::GzDecoder;
use pganalytics_testkit::Child;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tempfile::TempDir;

use crate::cluster::Cluster;

/// The smallest that the collector accepts.
pub(crate) const SPOOL_MAX_BYTES: u64 = 65_536;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pganalytics-collector");

/// A machine with a collector that reads the cluster's own PostgreSQL each second.
pub(crate) struct Node {
    folder: TempDir,
    witness: Option<Witness>,
}

/// Keeps a link to every batch that was ever in the spool.
struct Witness {
    stop: Arc<AtomicBool>,
    watching: thread::JoinHandle<()>,
}

#[derive(Deserialize)]
struct Envelope {
    metrics: Vec<Box<RawValue>>,
}

impl Node {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "server.url = 'http://{}'\n\
             server.registration_secret = {{ file = '{}' }}\n\
             server.request_timeout_seconds = 5\n\
             node.name = 'spooling'\n\
             node.hostname = 'spooling.test'\n\
             node.state_dir = '{}'\n\
             schedule.interval_seconds = 1\n\
             spool.max_bytes = {SPOOL_MAX_BYTES}\n\
             log.level = 'debug'\n\
             [[instances]]\n\
             name = 'main'\n\
             url = '{}'\n",
            cluster.address(0),
            cluster.registration_secret_file().display(),
            folder.path().join("state").display(),
            cluster.database_url(),
        );
        fs::write(folder.path().join("collector.toml"), config).unwrap();
        for name in ["state/spool", "seen"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let witness = Witness::of(folder.path().join("state/spool"), folder.path().join("seen"));
        Self { folder, witness: Some(witness) }
    }

    pub(crate) fn run(&self) -> Child {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--config"]).arg(self.folder.path().join("collector.toml"));
        Child::spawn("pganalytics-collector", command).unwrap()
    }

    /// Gives the next collector a spool that does not become full again before a busy machine has sent what is in it.
    pub(crate) fn make_room(&self) {
        let file = self.folder.path().join("collector.toml");
        let config = fs::read_to_string(&file).unwrap();
        let (small, large) = (
            format!("spool.max_bytes = {SPOOL_MAX_BYTES}"),
            format!("spool.max_bytes = {}", 256 * SPOOL_MAX_BYTES),
        );
        assert!(config.contains(&small));
        fs::write(file, config.replace(&small, &large)).unwrap();
    }

    /// The names of the batches that wait.
    pub(crate) fn spooled(&self) -> BTreeSet<String> {
        batches(&self.folder.path().join("state/spool")).map(|path| name_of(&path)).collect()
    }

    pub(crate) fn spooled_bytes(&self) -> u64 {
        batches(&self.folder.path().join("state/spool")).map(|path| fs::metadata(path).unwrap().len()).sum()
    }

    /// How many batches the collector says to have dropped because its spool was full.
    pub(crate) fn dropped_batches(&self) -> u64 {
        let counters = fs::read(self.folder.path().join("state/spool/counters.json")).unwrap_or_default();
        let counters: Value = serde_json::from_slice(&counters).unwrap_or_default();
        counters["dropped_batches"].as_u64().unwrap_or(0)
    }

    /// Every batch is stored once or was dropped for want of room, and the dropped ones are the oldest of those that
    /// could not be sent.
    #[expect(clippy::print_stdout, reason = "the counts are what the test shows")]
    pub(crate) async fn assert_stored_exactly_once(mut self, cluster: &Cluster, waiting: &BTreeSet<String>) {
        self.witness.take().unwrap().stop();
        let mut connection = cluster.connect().await;
        let mut outcomes: BTreeMap<String, bool> = BTreeMap::new();
        let mut shared: Vec<(bool, BTreeSet<String>)> = Vec::new();
        for (entry, holders) in entries_by_holders(&self.folder.path().join("seen")) {
            let times = times_stored(&mut connection, &entry).await;
            assert!(times <= 1, "an entry of {holders:?} is stored {times} times");
            match holders.first() {
                Some(holder) if holders.len() == 1 => {
                    let stored = *outcomes.entry(holder.clone()).or_insert(times == 1);
                    assert_eq!(stored, times == 1, "{holder} is stored whole or not at all");
                }
                _ => shared.push((times == 1, holders)),
            }
        }
        for (stored, holders) in shared {
            assert_eq!(stored, holders.iter().any(|holder| outcomes[holder]), "what {holders:?} share");
        }
        let lost: Vec<&String> =
            outcomes.iter().filter(|(_, stored)| !**stored).map(|(name, _)| name).collect();
        println!("batches {}, waiting at the kill {}, dropped {lost:?}", outcomes.len(), waiting.len());
        assert_eq!(lost.len() as u64, self.dropped_batches(), "what is lost was dropped and counted");
        assert!(waiting.iter().all(|name| outcomes[name]), "what was spooled at the kill is stored");
        assert!(lost.iter().all(|name| Some(*name) < waiting.first()), "the oldest were dropped");
        let (entries, booked, repeated) = rows(&mut connection).await;
        assert_eq!(entries, booked, "every entry in the ledger has its rows, and no other has any");
        assert_eq!(repeated, 0, "no row is stored twice");
    }
}

impl Witness {
    fn of(spool: PathBuf, seen: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watching = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::SeqCst) {
                    for batch in batches(&spool) {
                        // It is linked already, or has just been sent.
                        drop(fs::hard_link(&batch, seen.join(batch.file_name().unwrap())));
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { stop, watching }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.watching.join().unwrap();
    }
}

fn batches(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    paths.filter(|path| path.extension() == Some(OsStr::new("batch")))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The entries of a folder's batches, each with the batches that hold it. A pass that comes late and the next one may read
/// the same within one second: what both then hold as the same text is stored once, whichever of them arrives.
fn entries_by_holders(folder: &Path) -> HashMap<String, BTreeSet<String>> {
    let mut holders: HashMap<String, BTreeSet<String>> = HashMap::new();
    for batch in batches(folder) {
        for entry in entries_of(&fs::read(&batch).unwrap()) {
            holders.entry(entry).or_default().insert(name_of(&batch));
        }
    }
    holders
}

/// The entries of a spooled file, as they are sent. It holds a magic, the length of a head, the head, the length of the
/// compressed envelope, the envelope, and a checksum.
fn entries_of(file: &[u8]) -> Vec<String> {
    let head = u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize;
    let mut text = String::new();
    GzDecoder::new(&file[12 + head + 8..]).read_to_string(&mut text).unwrap();
    let envelope: Envelope = serde_json::from_str(&text).unwrap();
    envelope.metrics.iter().map(|entry| entry.get().to_owned()).collect()
}

async fn times_stored(connection: &mut PgConnection, entry: &str) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM metric_ledger WHERE digest = sha256($1) \
         AND EXISTS (SELECT FROM metric_rows WHERE metric_rows.entry_id = metric_ledger.entry_id)",
    )
    .bind(entry.as_bytes())
    .fetch_one(connection)
    .await
    .unwrap()
}

/// How many entries have rows, how many are in the ledger, and how many rows repeat another one of their entry.
async fn rows(connection: &mut PgConnection) -> (i64, i64, i64) {
    sqlx::query_as(
        "SELECT count(DISTINCT entry_id), (SELECT count(*) FROM metric_ledger), \
            count(*) - count(DISTINCT (entry_id, database, section, ordinal)) \
         FROM metric_rows",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}
