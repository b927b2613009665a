use std::fmt;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use pganalytics_core::tlog::Hash32;
use serde::Serialize;
use uuid::Uuid;

use super::cosigned::CosignedPart;
use super::era::EraLog;
use super::finding::Finding;
use super::worker::Counts;
use crate::postgres::audit::recover::GapRecord;

/// How many findings of a kind are shown.
const SHOWN: usize = 20;

/// What a verification found. It is clean when there are no findings; notices are what an auditor should know all the same.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AuditReport {
    /// When it was finished.
    pub verified_at: DateTime<Utc>,
    /// The logs, in their order.
    pub eras: Vec<EraReport>,
    /// Rows that were compared and are as the log says.
    pub rows: u64,
    /// Rows that wait to be sealed, of which nothing but the checksums could be verified.
    pub unsealed: u64,
    /// Rows whose checksum by their writer was verified. Zero if the keys were not given.
    pub macs: u64,
    /// Personal fields that open their commitment.
    pub personal_fields: u64,
    /// What is wrong, in order of eras and leaves; of many, the first of each kind.
    pub findings: Vec<Finding>,
    /// How many there were.
    pub findings_total: u64,
    /// What is not wrong and worth knowing.
    pub notices: Vec<Notice>,
}

/// What was verified of one log.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EraReport {
    /// Which.
    pub era: i16,
    /// Its name.
    pub origin: String,
    /// The size of the newest checkpoint that is believed; what to keep, with the root, for the next time.
    pub size: u64,
    /// The root at that size, in base64; nothing if no checkpoint is believed.
    #[serde(serialize_with = "as_text")]
    pub root: Option<Hash32>,
    /// Seals whose checkpoints, anchors and rows were verified.
    pub seals: u64,
    /// What as many witnesses as were demanded have cosigned; nothing if none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosigned: Option<CosignedPart>,
}

/// Something that is not wrong by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Notice {
    /// Numbers of a writer that no row has and no event declared void. A server that was killed leaves some; so does who
    /// removes rows before they are sealed. Numbers after a writer's last row cannot be missed.
    NumbersMissing {
        /// The writer.
        writer: Uuid,
        /// The numbers, from and to, the first ones.
        numbers: Vec<RangeInclusive<i64>>,
        /// How many they are.
        total: u64,
    },
    /// Numbers were declared void by events whose changes were erased since.
    VoidsErased {
        /// The writer.
        writer: Uuid,
        /// Events.
        events: u64,
    },
    /// A writer did not sign its first rows, or none: it had no key yet, or did not exist.
    Unsigned {
        /// The writer.
        writer: Uuid,
        /// Rows.
        rows: u64,
    },
    /// A writer signed with a key that is not there: it was retired since, or the writer did not exist.
    ForeignKey {
        /// The writer.
        writer: Uuid,
        /// Rows.
        rows: u64,
    },
    /// Checksums could not be verified without the keys.
    NoMacKeys,
    /// Events are missing under a signed order.
    Erased {
        /// Events that are gone.
        events: u64,
        /// Events without their personal fields.
        personal: u64,
    },
    /// Between this log and that before it, events were lost when the database went back, and it is on record.
    Gap {
        /// The era that begins after it.
        era: i16,
        /// How many leaves were lost.
        lost: u64,
        /// What was recorded as the reason.
        reason: String,
        /// Who recorded it.
        operator: String,
    },
    /// The newest seal is not published yet: its sealer is at it, or was cut short.
    SealUnpublished {
        /// The era.
        era: i16,
        /// Rows.
        rows: u64,
    },
}

impl AuditReport {
    pub(super) fn new(verified_at: DateTime<Utc>, eras: Vec<EraReport>, counts: Counts) -> Self {
        Self {
            verified_at,
            eras,
            rows: counts.rows,
            unsealed: counts.unsealed,
            macs: counts.macs,
            personal_fields: counts.personal,
            findings: Vec::new(),
            findings_total: 0,
            notices: Vec::new(),
        }
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings_total == 0
    }
}

impl EraReport {
    pub(super) fn of(log: &EraLog) -> Self {
        let origin = log.policy.origin().to_string();
        let root = log.checkpoint.as_ref().map(|checkpoint| *checkpoint.root());
        let seals = log.seals.iter().filter(|seal| seal.end() <= log.size()).count() as u64;
        Self { era: log.era, origin, size: log.size(), root, seals, cosigned: log.cosigned.clone() }
    }
}

impl Notice {
    pub(super) fn of_gap(era: i16, gap: &GapRecord) -> Self {
        let (reason, operator) = (gap.reason.clone(), gap.operator.clone());
        Self::Gap { era, lost: gap.lost, reason, operator }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NumbersMissing { writer, numbers, total } => {
                let shown: Vec<String> = numbers.iter().map(range).collect();
                write!(
                    f,
                    "writer {writer}: {total} numbers have no event ({}): a killed server leaves some, or somebody removed \
                     events before they were sealed",
                    shown.join(", ")
                )
            }
            Self::VoidsErased { writer, events } => {
                write!(f, "writer {writer}: {events} events that declare numbers void were erased")
            }
            Self::Unsigned { writer, rows } => {
                write!(f, "writer {writer}: {rows} events are not signed, from before it had a key")
            }
            Self::ForeignKey { writer, rows } => {
                write!(
                    f,
                    "writer {writer}: {rows} events are signed with a key that is not there, as retired ones are not"
                )
            }
            Self::NoMacKeys => {
                write!(f, "checksums of the writers were not verified: the data keys were not given")
            }
            Self::Erased { events, personal } => write!(
                f,
                "signed orders cover {events} events that are gone and {personal} without their personal fields"
            ),
            Self::Gap { era, lost, reason, operator } => {
                let (reason, operator) = (reason.escape_debug(), operator.escape_debug());
                write!(f, "{lost} events were lost before era {era}, recorded by {operator}: {reason}")
            }
            Self::SealUnpublished { era, rows } => {
                write!(f, "era {era}: the newest seal ({rows} events) is not published yet")
            }
        }
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for era in &self.eras {
            write!(f, "{}: {} entries in {} seals", era.origin, era.size, era.seals)?;
            match &era.root {
                Some(root) => writeln!(f, ", root {root}")?,
                None => writeln!(f, ", no checkpoint to believe")?,
            }
            if let Some(CosignedPart { size, at, witnesses }) = &era.cosigned {
                writeln!(f, "{}: {size} entries cosigned at {at} by {}", era.origin, witnesses.join(", "))?;
            }
        }
        writeln!(
            f,
            "{} events are as the log says, {} wait to be sealed; {} checksums and {} personal fields verified",
            self.rows, self.unsealed, self.macs, self.personal_fields
        )?;
        for notice in &self.notices {
            writeln!(f, "notice: {notice}")?;
        }
        for finding in self.findings.iter().take(SHOWN) {
            writeln!(f, "FOUND: {finding}")?;
        }
        match self.findings_total {
            0 => write!(f, "nothing is wrong"),
            total if total as usize > SHOWN => write!(f, "{total} findings, of which the first are shown"),
            1 => write!(f, "1 finding"),
            total => write!(f, "{total} findings"),
        }
    }
}

fn range(range: &RangeInclusive<i64>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{} to {}", range.start(), range.end())
    }
}

fn as_text<S: serde::Serializer>(root: &Option<Hash32>, serializer: S) -> Result<S::Ok, S::Error> {
    root.as_ref().map(ToString::to_string).serialize(serializer)
}
