//! Whether a recovery point may hold content that ransomware has encrypted: a disk's new content against
//! the disk's own history.
//!
//! Encrypted content does not compress and is new to the vault. So what is judged is the amount of new
//! content that does not compress. A disk is suspect if all of this holds:
//!
//! 1. at least [`MIN_POINTS`] points before have figures of the disk;
//! 2. the amount is at least [`MIN_BYTES`];
//! 3. it is at least an eighth of the disk's used bytes, and half of all new content does not compress; on a
//!    disk whose new content never compresses, half of the used bytes;
//! 4. it is more than one and a half times the most of the points before, and more than their median by
//!    twelve median deviations.
//!
//! A longer pause than usual raises the fourth limit, by what comes together in such a time. The limits and
//! what they miss: `docs/decisions/0039-ransomware-hints.md`.

use jiff::{SignedDuration, Timestamp};
use strongroom_base::{Jump, JumpKind, LastBefore, NewContent, PointId, Suspicion};

/// Points that must have figures of a disk before it is judged.
const MIN_POINTS: usize = 7;
/// Less new content that does not compress is never suspect.
const MIN_BYTES: u64 = 64 * 1024 * 1024;
/// How far the history reaches: far enough for a job that runs once a month.
const WINDOW: SignedDuration = SignedDuration::from_hours(40 * 24);
/// That many points are looked at however old they are, so that an item that is seldom backed up has a history.
const ANYWAY: usize = 12;
/// Less new content says nothing of how well a disk compresses.
const MIN_SAMPLE: u64 = 16 * 1024 * 1024;
/// If that much of a disk's new content does not compress as a rule, in percent, it never compresses.
const NEVER_COMPRESSES: u64 = 75;

/// What a backup has measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The point.
    pub id: PointId,
    /// The moment of its data.
    pub time: Timestamp,
    /// Its disks.
    pub disks: Vec<MeasuredDisk>,
    /// The last point before, if this one was found suspect.
    pub suspect_after: Option<LastBefore>,
}

/// What a backup has measured of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredDisk {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// The bytes in use, if the backup has looked at all of it.
    pub allocated_bytes: Option<u64>,
    /// What was new; none if everything was, as in a first backup, or if it was not measured.
    pub new_content: Option<NewContent>,
}

/// Whether a point with these disks can be suspect, whatever its history is. Most points cannot, and need none.
pub fn is_worth_judging(disks: &[MeasuredDisk]) -> bool {
    disks
        .iter()
        .filter_map(|disk| disk.new_content)
        .any(|new| new.incompressible_bytes >= MIN_BYTES)
}

/// Judges a point by those before it, which are in the order in which they were made.
pub fn judge(point: &Measured, before: &[Measured]) -> Option<Suspicion> {
    let last = before.last()?;
    let mut jumps: Vec<Jump> =
        point.disks.iter().filter_map(|disk| jump(point, disk, before)).collect();
    jumps.sort_by(|a, b| (b.bytes, &a.disk).cmp(&(a.bytes, &b.disk)));
    // Of several suspect points in a row, all name the one before the first.
    let last_before = last.suspect_after.unwrap_or(LastBefore { id: last.id, time: last.time });
    (!jumps.is_empty()).then_some(Suspicion { jumps, last_before })
}

/// Those of the points that a point of this time is judged by.
fn window(before: &[Measured], now: Timestamp) -> impl Iterator<Item = &Measured> {
    let always = before.len().saturating_sub(ANYWAY);
    let points = before.iter().enumerate();
    let recent =
        points.filter(move |(at, point)| *at >= always || now.duration_since(point.time) <= WINDOW);
    recent.map(|(_, point)| point)
}

/// What is known of a disk from the points before.
struct History {
    /// New content that does not compress, ascending.
    amounts: Vec<u64>,
    /// Whether the disk's new content never compresses.
    never_compresses: bool,
    /// The usual time between two points, and how long it is since the last one, in seconds.
    usual_pause: u64,
    pause: u64,
}

impl History {
    fn of(point: &Measured, disk: &MeasuredDisk, before: &[Measured]) -> Option<Self> {
        let found = |point: &Measured| -> Option<(Timestamp, NewContent)> {
            let disk = point.disks.iter().find(|old| old.name == disk.name)?;
            Some((point.time, disk.new_content?))
        };
        let points: Vec<(Timestamp, NewContent)> =
            window(before, point.time).filter_map(found).collect();
        let (last, _) = points.last()?;
        let times = || points.iter().map(|(time, _)| *time);
        let pauses: Vec<u64> = times().zip(times().skip(1)).map(|(a, b)| seconds(a, b)).collect();
        let sampled = points.iter().filter(|(_, new)| new.bytes >= MIN_SAMPLE);
        let compresses: Vec<bool> =
            sampled.map(|(_, new)| !new.is_mostly_incompressible(NEVER_COMPRESSES)).collect();
        let never = compresses.iter().filter(|compresses| !**compresses).count();
        Some(Self {
            amounts: sorted(points.iter().map(|(_, new)| new.incompressible_bytes).collect()),
            never_compresses: never.saturating_mul(2) > compresses.len(),
            usual_pause: median(&sorted(pauses)).max(1),
            pause: seconds(*last, point.time),
        })
    }

    fn most(&self) -> u64 {
        self.amounts.last().copied().unwrap_or(0)
    }

    /// What may be new after this pause.
    fn limit(&self) -> u64 {
        let count = u64::try_from(self.amounts.len()).unwrap_or(u64::MAX).max(1);
        let mean =
            self.amounts.iter().fold(0, |sum: u64, amount| sum.saturating_add(*amount)) / count;
        let missed = self.pause.saturating_sub(self.usual_pause);
        let come_together = u128::from(mean).saturating_mul(u128::from(missed))
            / u128::from(self.usual_pause.max(1));
        let come_together = u64::try_from(come_together).unwrap_or(u64::MAX);
        let of_most = self.most().saturating_add(come_together);
        let of_most = of_most.saturating_add(of_most / 2);
        let usual = median(&self.amounts);
        let deviations = self.amounts.iter().map(|amount| amount.abs_diff(usual)).collect();
        let of_median = usual.saturating_add(median(&sorted(deviations)).saturating_mul(12));
        of_most.max(of_median)
    }
}

/// What jumped on a disk, if something did.
fn jump(point: &Measured, disk: &MeasuredDisk, before: &[Measured]) -> Option<Jump> {
    let new = disk.new_content?;
    let bytes = new.incompressible_bytes;
    if bytes < MIN_BYTES {
        return None;
    }
    let history = History::of(point, disk, before)?;
    if history.amounts.len() < MIN_POINTS || bytes <= history.limit() {
        return None;
    }
    let used = used_bytes(disk, before);
    let (kind, is_much) = if history.never_compresses {
        (JumpKind::Amount, bytes >= used / 2)
    } else {
        (JumpKind::Incompressible, bytes >= used / 8 && new.is_mostly_incompressible(50))
    };
    is_much.then(|| Jump {
        disk: disk.name.clone(),
        kind,
        bytes,
        usual_bytes: median(&history.amounts),
        most_bytes: history.most(),
        points: u64::try_from(history.amounts.len()).unwrap_or(u64::MAX),
    })
}

/// The bytes of a disk that are in use, as the last backup knew that looked at all of it; else its size.
fn used_bytes(disk: &MeasuredDisk, before: &[Measured]) -> u64 {
    let earlier = before.iter().rev().flat_map(|point| &point.disks);
    let earlier = earlier.filter(|old| old.name == disk.name).find_map(|old| old.allocated_bytes);
    disk.allocated_bytes.or(earlier).unwrap_or(disk.size_bytes).min(disk.size_bytes)
}

fn seconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0)
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values
}

/// The median of ascending values; of an even number of them the upper one.
fn median(ascending: &[u64]) -> u64 {
    ascending.get(ascending.len() / 2).copied().unwrap_or(0)
}
