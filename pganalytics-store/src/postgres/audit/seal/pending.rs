use pganalytics_core::tlog::{AuthenticTree, Checkpoint, TileReader, TreeEdge};

use super::AuditSealError;
use super::place::LastSeal;
use super::sealer::grown;
use crate::postgres::Database;

/// Whether the last seal of an era can be finished, if it was cut short before it was published: `false` when rows were changed
/// since.
pub(in crate::postgres::audit) async fn can_be_finished(
    database: &Database,
    reader: &TileReader,
    era: i16,
) -> Result<bool, AuditSealError> {
    let mut connection = database.read().await?;
    let last = LastSeal::read(&mut connection, era).await?;
    connection.commit().await?;
    let Some(last) = last.filter(|last| !last.published) else { return Ok(true) };
    let published = reader.checkpoint().await?.map(|published| published.unverified().clone());
    let size = published.as_ref().map_or(0, |published| published.size().0);
    if i64::try_from(size) != Ok(last.first_leaf) {
        // It is published, or the database is behind.
        return Ok(true);
    }
    match grown(database, edge_of(reader, published).await?, (era, &last)).await {
        Ok(_) => Ok(true),
        Err(AuditSealError::Damaged { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The edge of what is published.
pub(super) async fn edge_of(
    reader: &TileReader,
    published: Option<Checkpoint>,
) -> Result<TreeEdge, AuditSealError> {
    match published {
        None => Ok(TreeEdge::new()),
        Some(published) => Ok(AuthenticTree::open(reader.clone(), published).await?.edge().await?),
    }
}
