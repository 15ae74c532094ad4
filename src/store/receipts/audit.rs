//! Counts the receipts of runs and reads which positions of a run are stored.
//!
//! Of the receipts of one position, the one of the highest attempt decides. Receipts of attempt 0 and of
//! negative positions are marks of processes; they belong to no token.

use std::collections::HashMap;
use std::fmt::Display;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::error::Error;
use crate::pipeline::positions::{PositionSet, PositionSetBuilder};

/// The number of receipts that are read at a time. They fit into one reply of the server.
pub(in crate::store) const PAGE_ROWS: usize = 10_000;

/// The receipts of one shard of a run, counted by token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardReceipts {
    /// The run.
    #[serde(serialize_with = "as_text")]
    pub run_id: Uuid,
    /// The shard.
    pub shard: i32,
    /// The tokens whose insert was committed with a row.
    pub stored: u64,
    /// The tokens whose insert was committed without a row.
    pub skipped: u64,
    /// The tokens that were rejected.
    pub rejected: u64,
    /// The tokens whose last attempt was settled as absent.
    pub tombstones: u64,
    /// The time of the oldest receipt, marks included.
    #[serde(serialize_with = "as_text")]
    pub first: Timestamp,
    /// The time of the newest receipt, marks included.
    #[serde(serialize_with = "as_text")]
    pub last: Timestamp,
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// What a receipt of a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct PositionReceipt {
    pub(in crate::store) position: i64,
    pub(in crate::store) attempt: i32,
    /// True if the insert was committed with a row.
    pub(in crate::store) is_stored: bool,
}

/// The receipts table of an open database, as `audit` reads it.
pub(in crate::store) trait ReadReceipts {
    /// Counts the receipts of each shard, in any order.
    async fn count(&self, run: Option<Uuid>) -> Result<Vec<ShardReceipts>, Error>;

    /// Returns the receipts of a shard that follow a position and an attempt, ordered by both; at most
    /// [`PAGE_ROWS`].
    async fn receipts_after(
        &self,
        run: Uuid,
        shard: i32,
        after: (i64, i32),
    ) -> Result<Vec<PositionReceipt>, Error>;
}

/// Returns the SQL that counts the receipts of each shard, which both databases understand.
///
/// `condition` is a WHERE clause or empty. `time` returns the SQL that writes a time as text in RFC 3339.
/// The order of the window is that of the primary key.
pub(in crate::store) fn count_sql(
    table: &str,
    condition: &str,
    time: impl Fn(&str) -> String,
) -> String {
    let counts = [
        "kind = 't' AND rows >= 1",
        "kind = 't' AND coalesce(rows, 0) < 1",
        "kind = 'r'",
        "kind = 'x'",
    ];
    let counts = counts.map(|which| format!("count(*) FILTER (WHERE decides AND {which})"));
    format!(
        "SELECT CAST(run_id AS text), shard, {}, {}, {} FROM (SELECT run_id, shard, kind, rows, at, \
         attempt > 0 AND position >= 0 AND lead(attempt) OVER (PARTITION BY run_id, shard, position \
         ORDER BY attempt) IS NULL AS decides FROM {table} {condition}) AS receipts \
         GROUP BY run_id, shard",
        counts.join(", "),
        time("min(at)"),
        time("max(at)"),
    )
}

/// Counts the receipts of each shard: the newest run first, its shards in order.
pub(in crate::store) async fn shards(
    table: &impl ReadReceipts,
    run: Option<Uuid>,
) -> Result<Vec<ShardReceipts>, Error> {
    let mut shards = table.count(run).await?;
    sort(&mut shards);
    Ok(shards)
}

fn sort(shards: &mut [ShardReceipts]) {
    let mut newest: HashMap<Uuid, Timestamp> = HashMap::new();
    for shard in shards.iter() {
        let last = newest.entry(shard.run_id).or_insert(shard.last);
        *last = shard.last.max(*last);
    }
    let age = |shard: &ShardReceipts| newest.get(&shard.run_id).copied();
    shards.sort_by(|one, other| {
        let by_age = age(other).cmp(&age(one));
        let by_key = || (one.run_id, one.shard).cmp(&(other.run_id, other.shard));
        by_age.then_with(by_key)
    });
}

/// Reads the positions of a shard whose tokens are stored, page by page.
pub(in crate::store) async fn stored_positions(
    table: &impl ReadReceipts,
    run: Uuid,
    shard: i32,
) -> Result<PositionSet, Error> {
    let mut stored = StoredPositions::default();
    // Before the first position that is not negative.
    let mut after = (-1, i32::MAX);
    loop {
        let page = table.receipts_after(run, shard, after).await?;
        for receipt in &page {
            stored.add(*receipt);
        }
        match page.last() {
            Some(last) if page.len() >= PAGE_ROWS => after = (last.position, last.attempt),
            _ => return Ok(stored.finish()),
        }
    }
}

/// Collects the positions that are stored from receipts in the order of position and attempt.
#[derive(Default)]
struct StoredPositions {
    /// The last receipt; the next one may be of the same position.
    last: Option<PositionReceipt>,
    positions: PositionSetBuilder,
}

impl StoredPositions {
    fn add(&mut self, receipt: PositionReceipt) {
        if receipt.attempt < 1 || receipt.position < 0 {
            return;
        }
        let before = self.last.replace(receipt);
        self.decide(before.filter(|before| before.position != receipt.position));
    }

    /// Adds a position by the receipt of its highest attempt.
    fn decide(&mut self, last: Option<PositionReceipt>) {
        if let Some(receipt) = last.filter(|receipt| receipt.is_stored)
            && let Ok(position) = u64::try_from(receipt.position)
        {
            self.positions.add(position, position);
        }
    }

    fn finish(mut self) -> PositionSet {
        let last = self.last.take();
        self.decide(last);
        self.positions.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(position: i64, attempt: i32, is_stored: bool) -> PositionReceipt {
        PositionReceipt {
            position,
            attempt,
            is_stored,
        }
    }

    fn stored(receipts: &[PositionReceipt]) -> Vec<u64> {
        let mut stored = StoredPositions::default();
        for receipt in receipts {
            stored.add(*receipt);
        }
        stored.finish().iter().collect()
    }

    #[test]
    fn highest_attempt_decides_about_a_position() {
        assert!(stored(&[]).is_empty());
        let receipts = [
            receipt(1, 1, true),
            receipt(2, 1, false),
            receipt(2, 2, true),
            receipt(3, 1, true),
            receipt(3, 2, false),
            receipt(4, 1, false),
            receipt(5, 3, true),
        ];
        assert_eq!(stored(&receipts), [1, 2, 5]);
    }

    #[test]
    fn marks_of_processes_are_no_tokens() {
        let receipts = [
            receipt(-1, 1, true),
            receipt(0, 0, true),
            receipt(0, 1, true),
            receipt(7, 0, true),
        ];
        assert_eq!(stored(&receipts), [0]);
    }

    #[test]
    fn newest_run_comes_first_and_its_shards_in_order() {
        let shard = |run: u128, shard, last| ShardReceipts {
            run_id: Uuid::from_u128(run),
            shard,
            stored: 0,
            skipped: 0,
            rejected: 0,
            tombstones: 0,
            first: Timestamp::UNIX_EPOCH,
            last: Timestamp::from_second(last).unwrap(),
        };
        let mut shards = [
            shard(1, 0, 10),
            shard(2, 1, 30),
            shard(3, 0, 20),
            shard(2, 0, 5),
        ];
        sort(&mut shards);
        let order: Vec<_> = shards
            .iter()
            .map(|shard| (shard.run_id.as_u128(), shard.shard))
            .collect();
        assert_eq!(order, [(2, 0), (2, 1), (3, 0), (1, 0)]);
    }

    struct Pages(Vec<PositionReceipt>);

    impl ReadReceipts for Pages {
        async fn count(&self, _: Option<Uuid>) -> Result<Vec<ShardReceipts>, Error> {
            Ok(Vec::new())
        }

        async fn receipts_after(
            &self,
            _: Uuid,
            _: i32,
            after: (i64, i32),
        ) -> Result<Vec<PositionReceipt>, Error> {
            let all = self.0.iter().copied();
            let rest = all.filter(|receipt| (receipt.position, receipt.attempt) > after);
            Ok(rest.take(PAGE_ROWS).collect())
        }
    }

    #[tokio::test]
    async fn attempts_of_one_position_may_be_on_two_pages() {
        let mut receipts: Vec<PositionReceipt> =
            (0..25_000).map(|at| receipt(at, 1, true)).collect();
        // The last position of the first page has a second attempt, which is not stored.
        let last = i64::try_from(PAGE_ROWS).unwrap() - 1;
        receipts.insert(PAGE_ROWS, receipt(last, 2, false));
        let stored = stored_positions(&Pages(receipts), Uuid::nil(), 0).await;
        let stored = stored.unwrap();
        assert_eq!(stored.len(), 24_999);
        assert!(
            !stored
                .iter()
                .any(|position| position == last.unsigned_abs())
        );
    }
}
