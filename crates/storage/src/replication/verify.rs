//! A verification: the secondary and the primary are compared by strong digests of all content, in the background.
//!
//! It is done in parts. For each the primary keeps a moment, and this server takes records up to exactly there before
//! both are compared; records are followed meanwhile. Nothing is changed.

use std::{sync::Arc, time::Duration};

use blobs::{CompareProgress, Compared, DifferenceKind, Role};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::lock;
use strongroom_blobs as blobs;
use tokio::runtime::Handle;

use super::{
    Replication, follow,
    manage::role,
    peer::{Link, PeerError},
};
use crate::admin::{RefusedKind, Reply};

/// How long a moment is kept: then the rest is compared at a later one.
const PART: Duration = Duration::from_secs(30);
/// The least rate, in bytes in a second: the primary forgets a moment of which nobody asks for a minute.
const LEAST_RATE: u64 = 1 << 20;
/// How often a part is tried again after another one, while the servers are not in contact.
const TRIES: u32 = 60;
/// How long after one another.
const PAUSE: Duration = Duration::from_secs(1);

/// How a verification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// It runs.
    Running,
    /// Everything was compared.
    Completed,
    /// It ended early.
    Failed,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceIn {
    /// The bytes of a range.
    Content,
    /// Which pages of a range have content, or their checksums.
    Map,
    /// Names, properties, or other rows of the state.
    State,
}

/// A difference between both servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceShown {
    /// What differs.
    pub kind: DifferenceIn,
    /// The blob: `ACCOUNT/CONTAINER/BLOB`; none for what belongs to no blob.
    pub blob: Option<String>,
    /// The first byte of the range, in the blob or one of its snapshots.
    pub offset: u64,
    /// The length of the range.
    pub length: u64,
}

/// A verification, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationShown {
    /// How it stands.
    pub state: VerificationState,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Versions of blocks of 64 KiB that were compared.
    pub blocks: u64,
    /// Versions of blocks that there are.
    pub of_blocks: u64,
    /// Bytes of content whose digests were compared.
    pub bytes: u64,
    /// Pieces of 4 KiB that were passed over: written meanwhile, or damaged at one of the servers.
    pub passed_over: u64,
    /// How many differences there are.
    pub difference_count: u64,
    /// The first of them.
    pub differences: Vec<DifferenceShown>,
    /// Why it ended early.
    pub reason: Option<String>,
}

/// Differences that are shown.
const SHOWN: usize = 1000;

impl VerificationShown {
    fn new(started: Timestamp) -> Self {
        Self {
            state: VerificationState::Running,
            started,
            ended: None,
            blocks: 0,
            of_blocks: 0,
            bytes: 0,
            passed_over: 0,
            difference_count: 0,
            differences: Vec::new(),
            reason: None,
        }
    }

    /// What was compared before, and a part that runs.
    fn with(&mut self, before: CompareProgress, part: CompareProgress) {
        self.blocks = before.blocks.saturating_add(part.blocks);
        self.of_blocks = part.of_blocks;
        self.bytes = before.bytes.saturating_add(part.bytes);
        self.passed_over = before.passed_over.saturating_add(part.passed_over);
    }

    fn add(&mut self, compared: &Compared) {
        self.difference_count = self.difference_count.saturating_add(compared.count);
        let room = SHOWN.saturating_sub(self.differences.len());
        self.differences.extend(compared.differences.iter().take(room).map(shown));
    }
}

fn shown(difference: &blobs::Difference) -> DifferenceShown {
    let blobs::Difference { kind, blob, start, end } = difference;
    DifferenceShown {
        kind: match kind {
            DifferenceKind::Content => DifferenceIn::Content,
            DifferenceKind::Map => DifferenceIn::Map,
            DifferenceKind::State => DifferenceIn::State,
        },
        blob: blob.as_ref().map(|name| {
            let blobs::BlobName { container, blob } = name;
            format!("{}/{}/{blob}", container.account, container.container)
        }),
        offset: *start,
        length: end.saturating_sub(*start),
    }
}

/// Begins a verification in the background.
pub(super) fn begin(this: &Arc<Replication>, rate: u64, is_served: bool) -> Result<(), Reply> {
    let invalid = |reason: String| Reply::refused(RefusedKind::InvalidReplication, reason);
    if rate < LEAST_RATE {
        return Err(invalid("a verification reads 1 MiB in a second at least".to_owned()));
    }
    let part = this.role();
    if part != Role::Secondary {
        return Err(invalid(format!(
            "this server is {}: the secondary compares itself with the primary",
            role(part)
        )));
    }
    if !is_served {
        return Err(invalid("the accounts of this server are not served".to_owned()));
    }
    {
        let verification = &mut lock(&this.now).verification;
        let is_running = |it: &VerificationShown| it.state == VerificationState::Running;
        if verification.as_ref().is_some_and(is_running) {
            return Err(invalid("a verification is running already".to_owned()));
        }
        *verification = Some(VerificationShown::new(this.clock.now()));
    }
    let this = Arc::clone(this);
    tokio::spawn(async move {
        let ended = run(&this, rate).await;
        let now = this.clock.now();
        if let Some(shown) = &mut lock(&this.now).verification {
            shown.ended = Some(now);
            shown.state = match ended {
                Ok(()) => VerificationState::Completed,
                Err(reason) => {
                    tracing::warn!(reason, "the servers were not compared to the end");
                    shown.reason = Some(reason);
                    VerificationState::Failed
                }
            };
            if shown.difference_count > 0 {
                let count = shown.difference_count;
                tracing::error!(count, "the secondary differs from the primary");
            }
        }
    });
    Ok(())
}

/// Compares one part after another.
async fn run(this: &Arc<Replication>, rate: u64) -> Result<(), String> {
    let (mut from, mut before, mut tries) = (None, CompareProgress::default(), 0_u32);
    loop {
        if this.role() != Role::Secondary {
            return Err(format!("this server is {} now", role(this.role())));
        }
        match part(this, from.clone(), before, rate).await {
            Ok((compared, progress)) => {
                tries = 0;
                before.blocks = before.blocks.saturating_add(progress.blocks);
                before.bytes = before.bytes.saturating_add(progress.bytes);
                before.passed_over = before.passed_over.saturating_add(progress.passed_over);
                if let Some(shown) = &mut lock(&this.now).verification {
                    shown.add(&compared);
                }
                match compared.next {
                    Some(next) => from = Some(next),
                    None => return Ok(()),
                }
            }
            Err(Failed::ForGood(reason)) => return Err(reason),
            Err(Failed::ForNow(reason)) if tries >= TRIES => return Err(reason),
            Err(Failed::ForNow(_)) => {
                tries = tries.saturating_add(1);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Why a part was not compared.
enum Failed {
    /// It may be later.
    ForNow(String),
    ForGood(String),
}

async fn part(
    this: &Arc<Replication>,
    from: Option<Vec<u8>>,
    before: CompareProgress,
    rate: u64,
) -> Result<(Compared, CompareProgress), Failed> {
    let link = this.link().map_err(|error| Failed::ForNow(error.to_string()))?;
    let work = Arc::clone(&this.work).lock_owned().await;
    let (here, runtime) = (Arc::clone(this), Handle::current());
    let working = tokio::task::spawn_blocking(move || {
        let mut session = None;
        let mut ask = |question: Bytes| runtime.block_on(compare(&link, &mut session, question));
        let comparison = here.store.begin_comparison(&mut ask)?;
        // From here on records are followed again.
        drop(work);
        let begun = here.clock.monotonic();
        let mut last = CompareProgress::default();
        let mut go = |progress: CompareProgress| {
            last = progress;
            if let Some(shown) = &mut lock(&here.now).verification {
                shown.with(before, progress);
            }
            let spent = here.clock.monotonic().saturating_sub(begun);
            let due = progress.bytes.saturating_mul(1000).checked_div(rate).unwrap_or(0);
            here.clock.sleep(Duration::from_millis(due).saturating_sub(spent));
            spent < PART && here.role() == Role::Secondary
        };
        let compared = comparison.run(from, &mut ask, &mut go)?;
        Ok((compared, last))
    });
    let ended = working.await.map_err(|error| Failed::ForGood(error.to_string()))?;
    ended.map_err(|error: blobs::ResyncError<PeerError>| {
        let reason = follow::said(&error);
        match &error {
            blobs::ResyncError::Peer(PeerError::Said {
                said: super::wire::Said::Invalid, ..
            }) => Failed::ForGood(format!(
                "the other server is of a version that cannot compare: {reason}"
            )),
            _ => Failed::ForNow(reason),
        }
    })
}

async fn compare(
    link: &Link,
    session: &mut Option<String>,
    question: Bytes,
) -> Result<Bytes, PeerError> {
    let (answer, id) = link.compare(session.as_deref(), question).await?;
    *session = id.or_else(|| session.take());
    Ok(answer)
}
