//! Hints of ransomware: what a backup measures of new content, and why a recovery point is suspect.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Message, PointId, message, words};

/// What a backup of a disk has stored that the vault did not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewContent {
    /// Bytes in blocks that are new to the vault.
    pub bytes: u64,
    /// Bytes of them that hardly compress, as encrypted content does: by less than a quarter.
    pub incompressible_bytes: u64,
}

impl NewContent {
    /// Whether a record of this length has content that hardly compresses.
    pub const fn is_incompressible(plain_bytes: u64, stored_bytes: u64) -> bool {
        stored_bytes.saturating_mul(4) > plain_bytes.saturating_mul(3)
    }

    /// Whether at least this part of the new content, in percent, hardly compresses.
    pub fn is_mostly_incompressible(self, percent: u64) -> bool {
        let [have, of] = [self.incompressible_bytes, self.bytes].map(u128::from);
        of > 0 && have.saturating_mul(100) >= of.saturating_mul(u128::from(percent))
    }
}

/// What of a disk jumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum JumpKind {
    /// The amount of new content that does not compress, on a disk whose new content usually compresses.
    Incompressible,
    /// The amount of new content, on a disk whose content never compresses.
    Amount,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

/// A jump of what is new on a disk, against the disk's own history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Jump {
    /// The disk.
    pub disk: String,
    /// What jumped.
    pub kind: JumpKind,
    /// Bytes of new content that do not compress.
    pub bytes: u64,
    /// The same of the points before: the median.
    pub usual_bytes: u64,
    /// The same of the points before: the maximum.
    pub most_bytes: u64,
    /// The number of points before that it was compared with.
    pub points: u64,
}

/// The last recovery point before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LastBefore {
    /// Its id.
    pub id: PointId,
    /// The moment of its data.
    #[cfg_attr(feature = "schema", schema(value_type = String, format = DateTime))]
    pub time: Timestamp,
}

/// Why a recovery point may hold content that ransomware has encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Suspicion {
    /// What jumped, the largest first; there is at least one.
    pub jumps: Vec<Jump>,
    /// The last recovery point before that is not suspect.
    pub last_before: LastBefore,
}

impl Suspicion {
    /// As a message of the code `point.suspect`. It is about the largest jump.
    pub fn message(&self, item: &str, point: PointId) -> Message {
        let LastBefore { id: before, time } = self.last_before;
        let none = Jump {
            disk: String::new(),
            kind: JumpKind::Other,
            bytes: 0,
            usual_bytes: 0,
            most_bytes: 0,
            points: 0,
        };
        let Jump { disk, kind, bytes, most_bytes, points, .. } =
            self.jumps.first().unwrap_or(&none);
        match kind {
            JumpKind::Incompressible => message!(
                POINT_SUSPECT: incompressible,
                "ransomware may have encrypted {item}: in recovery point {point}, {bytes} of new content on disk {disk} do not compress, after {most} at most in {points} points before; the last recovery point before is {before} of {time}",
                item, point, bytes = bytes => words::bytes(*bytes), disk,
                most = most_bytes => words::bytes(*most_bytes), points, before, time
            ),
            JumpKind::Amount => message!(
                POINT_SUSPECT: amount,
                "ransomware may have encrypted {item}: recovery point {point} has {bytes} of new content on disk {disk}, after {most} at most in {points} points before; the last recovery point before is {before} of {time}",
                item, point, bytes = bytes => words::bytes(*bytes), disk,
                most = most_bytes => words::bytes(*most_bytes), points, before, time
            ),
            JumpKind::Other => message!(
                POINT_SUSPECT: other,
                "ransomware may have encrypted {item} before recovery point {point}; the last recovery point before is {before} of {time}",
                item, point, before, time
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Param;

    fn suspicion(kind: JumpKind) -> Suspicion {
        let id: PointId = "02081040G2081040G2081040G2".parse().expect("an id");
        let jump = Jump {
            disk: "vda".to_owned(),
            kind,
            bytes: 12 << 30,
            usual_bytes: 1 << 20,
            most_bytes: 3 << 20,
            points: 9,
        };
        let time = "2026-11-22T03:00:00Z".parse().expect("a time");
        Suspicion { jumps: vec![jump], last_before: LastBefore { id, time } }
    }

    #[test]
    fn the_message_names_the_item_the_jump_and_the_last_point_before() {
        let point: PointId = "02081040G2081040G2081040G3".parse().expect("an id");
        for (kind, problem) in [
            (JumpKind::Incompressible, "incompressible"),
            (JumpKind::Amount, "amount"),
            (JumpKind::Other, "other"),
        ] {
            let message = suspicion(kind).message("web", point);
            assert_eq!(message.faults(), Vec::<String>::new());
            assert_eq!(message.code.name, "point.suspect");
            assert_eq!(message.params.get("problem"), Some(&Param::Text(problem.to_owned())));
            for name in ["02081040G2081040G2081040G2", "2026-11-22T03:00:00Z", "web"] {
                assert!(message.text.contains(name), "{}", message.text);
            }
        }
    }

    #[test]
    fn a_kind_of_a_later_version_is_read() {
        let text = serde_json::to_string(&suspicion(JumpKind::Amount)).expect("JSON");
        let later = text.replace("\"amount\"", "\"entropy_of_names\"");
        let read: Suspicion = serde_json::from_str(&later).expect("is read");
        assert_eq!(read, suspicion(JumpKind::Other));
    }

    #[test]
    fn what_saves_less_than_a_quarter_is_incompressible() {
        assert!(NewContent::is_incompressible(65536, 65536 + 16));
        assert!(NewContent::is_incompressible(65536, 49153));
        assert!(!NewContent::is_incompressible(65536, 49152));
        let half = NewContent { bytes: 2, incompressible_bytes: 1 };
        assert!(half.is_mostly_incompressible(50) && !half.is_mostly_incompressible(51));
        assert!(!NewContent::default().is_mostly_incompressible(0));
    }
}
