//! Boot verifications: how far a machine came that was started from a recovery point.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{JobId, PointId};

/// A step of the way from bytes to a service that works, lowest first. Each needs those below it, except that the first
/// two are looked at without starting anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Every block was read, and is what its digest says.
    Digests,
    /// The file systems that can be read were opened.
    FileSystems,
    /// QEMU ran the machine.
    PowerOn,
    /// The firmware has found something to start on the disks.
    Firmware,
    /// A kernel ran: it wrote on the console, or to the disks.
    Kernel,
    /// The console asked for a login.
    Login,
    /// The guest's agent answered.
    Agent,
    /// The services that were asked for run, and the ports are open.
    Services,
    /// The script in the guest ended with success.
    Script,
}

impl Rung {
    /// All of them, lowest first.
    pub const ALL: [Self; 9] = [
        Self::Digests,
        Self::FileSystems,
        Self::PowerOn,
        Self::Firmware,
        Self::Kernel,
        Self::Login,
        Self::Agent,
        Self::Services,
        Self::Script,
    ];

    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Digests => "digests",
            Self::FileSystems => "file_systems",
            Self::PowerOn => "power_on",
            Self::Firmware => "firmware",
            Self::Kernel => "kernel",
            Self::Login => "login",
            Self::Agent => "agent",
            Self::Services => "services",
            Self::Script => "script",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that is no rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no step of a boot")]
pub struct NoRung;

impl FromStr for Rung {
    type Err = NoRung;

    fn from_str(text: &str) -> Result<Self, NoRung> {
        let word = text.replace('-', "_");
        Self::ALL.into_iter().find(|rung| rung.name() == word).ok_or(NoRung)
    }
}

/// What became of a rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RungOutcome {
    /// It was seen.
    Reached,
    /// It was waited for, or looked at, in vain.
    Missed,
    /// Nobody looked: the reason says why.
    NotTried,
}

impl RungOutcome {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Missed => "missed",
            Self::NotTried => "not_tried",
        }
    }
}

/// One rung of a boot verification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RungReport {
    /// Which.
    pub rung: Rung,
    /// What became of it.
    pub outcome: RungOutcome,
    /// Seconds since the machine was started, if it was reached after that.
    pub seconds: Option<f64>,
    /// What showed it, or why it was missed or not tried.
    pub reason: String,
}

/// Whether a boot verification came as far as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootVerdict {
    /// It did.
    Passed,
    /// It did not.
    Failed,
}

impl BootVerdict {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
        }
    }
}

/// Why a rung is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedBy {
    /// Somebody asked for it.
    Request,
    /// An earlier recovery point of the item reached it.
    History,
    /// The guest's agent answered when the recovery point was made.
    Agent,
    /// Nothing is known of the machine: a kernel is the least.
    Default,
}

/// Stored data that is damaged, as a boot verification has found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootDamage {
    /// The step that the machine was on its way to.
    pub step: Rung,
    /// The disk.
    pub disk: String,
    /// The code of the error: that which a restore has.
    pub code: String,
    /// What is wrong.
    pub reason: String,
}

/// What the screen of a machine looks like, beside that of an earlier verification of its item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPicture {
    /// A hash of 128 bits that changes little if the picture does, in hexadecimal digits.
    pub hash: String,
    /// The newest other recovery point of the item that came as far as expected and has a picture.
    pub compared_with: Option<PointId>,
    /// In how many bits the hash differs from that of the other one.
    pub distance: Option<u32>,
    /// Whether both look alike.
    pub is_alike: Option<bool>,
}

/// A boot verification; also the stable JSON of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootReport {
    /// The recovery point.
    pub recovery_point: PointId,
    /// The item.
    pub item: String,
    /// The machine as it was called.
    pub machine: String,
    /// The host that started it.
    pub host: String,
    /// The job of the service that asked for it, if one did.
    #[serde(default)]
    pub job: Option<JobId>,
    /// When the verification began.
    pub begun: Timestamp,
    /// Whether it came as far as expected.
    pub verdict: BootVerdict,
    /// How far it was expected to come.
    pub expected: Rung,
    /// Why.
    pub expected_by: ExpectedBy,
    /// How far it came; none if QEMU did not even run it.
    pub reached: Option<Rung>,
    /// Why it failed.
    pub reason: Option<String>,
    /// The damage that was found first: stored data of the recovery point that cannot be read.
    #[serde(default)]
    pub damage: Option<BootDamage>,
    /// Seconds from the begin until the machine was started.
    pub start_seconds: f64,
    /// Every rung.
    pub rungs: Vec<RungReport>,
    /// The format of the picture of the screen, if there is one.
    pub screenshot: Option<String>,
    /// What the picture looks like, if there is one that can be read.
    #[serde(default)]
    pub picture: Option<BootPicture>,
    /// Bytes that the machine wrote on its console.
    pub console_bytes: u64,
    /// Different bytes of the recovery point that it read, in whole blocks.
    pub read_bytes: u64,
    /// Bytes that it wrote, in whole clusters; they are gone.
    pub written_bytes: u64,
    /// What people should know.
    pub notes: Vec<String>,
    /// Seconds in all.
    pub seconds: f64,
}

/// A boot verification in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootSummary {
    /// The recovery point.
    pub recovery_point: PointId,
    /// When the verification began.
    pub begun: Timestamp,
    /// Whether it came as far as expected.
    pub verdict: BootVerdict,
    /// How far it was expected to come.
    pub expected: Rung,
    /// How far it came.
    pub reached: Option<Rung>,
    /// Seconds until it was there, if it was.
    pub reached_seconds: Option<f64>,
    /// Why it failed.
    pub reason: Option<String>,
    /// The hash of the picture of its screen.
    #[serde(default)]
    pub picture_hash: Option<String>,
}

impl BootReport {
    /// What a list shows.
    pub fn summary(&self) -> BootSummary {
        let highest = self.rungs.iter().find(|one| Some(one.rung) == self.reached);
        BootSummary {
            recovery_point: self.recovery_point,
            begun: self.begun,
            verdict: self.verdict,
            expected: self.expected,
            reached: self.reached,
            reached_seconds: highest.and_then(|one| one.seconds),
            reason: self.reason.clone(),
            picture_hash: self.picture.as_ref().map(|picture| picture.hash.clone()),
        }
    }
}

/// A drill: machines that were started together from their recovery points; also the stable JSON of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// When it began.
    pub begun: Timestamp,
    /// The host.
    pub host: String,
    /// Whether all machines came as far as expected, and in the time that is wanted.
    pub verdict: BootVerdict,
    /// The time in which a machine has to work, if one is wanted.
    pub wanted_seconds: Option<f64>,
    /// The machines, in order.
    pub machines: Vec<DrilledMachine>,
    /// Seconds in all.
    pub seconds: f64,
}

/// A machine of a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrilledMachine {
    /// The item.
    pub item: String,
    /// The recovery point.
    pub recovery_point: PointId,
    /// The moment whose data it is.
    pub point_time: Timestamp,
    /// How old it was when the drill began: what would have been lost.
    pub age_seconds: f64,
    /// Whether it came as far as expected.
    pub verdict: BootVerdict,
    /// Why not.
    pub reason: Option<String>,
    /// The code of the error with which it was not even started.
    pub code: Option<String>,
    /// Seconds from the begin of the drill until it had come as far as expected.
    pub recovery_seconds: Option<f64>,
    /// Whether that is within the time that is wanted.
    pub is_in_time: Option<bool>,
    /// Its verification, with each step; none if it was not even started.
    pub boot: Option<BootReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_json_and_in_order() {
        for (rung, next) in Rung::ALL.iter().zip(&Rung::ALL[1..]) {
            assert!(rung < next);
        }
        for rung in Rung::ALL {
            let json = serde_json::to_string(&rung).expect("JSON");
            assert_eq!(json, format!("\"{rung}\""));
            assert_eq!(rung.name().parse(), Ok(rung));
            assert_eq!(rung.name().replace('_', "-").parse(), Ok(rung));
        }
        assert_eq!("moon".parse::<Rung>(), Err(NoRung));
        for outcome in [RungOutcome::Reached, RungOutcome::Missed, RungOutcome::NotTried] {
            let json = serde_json::to_string(&outcome).expect("JSON");
            assert_eq!(json, format!("\"{}\"", outcome.name()));
        }
    }
}
