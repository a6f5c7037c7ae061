//! What is concluded from what a machine does while it boots.
//!
//! Pure: it is given what was seen, and gives the rungs that were reached, or why the boot is stuck. A guest may
//! be hostile; all that can come of what it writes is a wrong rung of its own machine.

use std::collections::BTreeMap;

use strongroom_reports::{Rung, RungOutcome, RungReport};

/// Blocks that a firmware reads of each disk to find out whether it can be started, at most.
const FIRMWARE_BLOCKS: u64 = 4;
/// Bytes that a boot loader writes at most: GRUB notes the attempt in a block of its own.
const LOADER_WRITES: u64 = 4 * 65536;
/// The longest line of a console that is quoted.
const LINE_MAX: usize = 160;

/// What a machine has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether QEMU has run its processors.
    pub(super) ran: bool,
    /// Whether its kernel comes from the host, and not from a disk.
    pub(super) has_kernel_of_host: bool,
    /// Its disks.
    pub(super) disks: u64,
    /// Blocks that it has read.
    pub(super) read_blocks: u64,
    /// Bytes that it has written, in clusters.
    pub(super) written: u64,
    /// What it has written on its console, as [`plain`] gives it.
    pub(super) console: String,
    /// Whether its agent has answered.
    pub(super) agent: bool,
}

/// Kernels and the first programs above them, by what they write on a console.
const KERNELS: [&str; 9] = [
    "Linux version ",
    "Kernel command line: ",
    "systemd[1]: ",
    "Welcome to ",
    "EFI stub: Loaded initrd",
    "FreeBSD is a registered trademark",
    "The NetBSD Foundation",
    "OpenBSD.  All rights reserved",
    "root on sd",
];

/// What a machine writes that does not come further by itself, and what that means.
const STUCK: [(&str, &str); 17] = [
    ("Kernel panic - not syncing", "the kernel panicked"),
    ("end Kernel panic", "the kernel panicked"),
    ("Unable to mount root fs", "the kernel cannot mount the root file system"),
    ("Attempted to kill init", "the first process ended"),
    ("You are in emergency mode", "the system started in emergency mode"),
    ("Give root password for maintenance", "the system asks for maintenance"),
    ("UNEXPECTED INCONSISTENCY", "a file system must be repaired by hand"),
    ("Entering emergency mode", "the system started in emergency mode"),
    ("(initramfs)", "the initial file system found no root file system"),
    ("dracut:/#", "the initial file system found no root file system"),
    ("grub rescue>", "the boot loader found no files of its own"),
    ("Minimal BASH-like line editing", "the boot loader waits at its prompt"),
    ("No bootable device", "the firmware found nothing to start"),
    ("Not a bootable disk", "the boot sector is damaged"),
    ("Operating system not found", "the firmware found nothing to start"),
    ("BdsDxe: No bootable option", "the firmware found nothing to start"),
    ("UEFI Interactive Shell", "the firmware found nothing to start"),
];

/// The rungs that were reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ladder {
    reached: BTreeMap<Rung, (Option<f64>, String)>,
    missed: BTreeMap<Rung, String>,
    not_tried: BTreeMap<Rung, String>,
}

impl Ladder {
    /// A rung was reached. The first time counts.
    pub(super) fn reach(&mut self, rung: Rung, seconds: Option<f64>, reason: impl Into<String>) {
        self.reached.entry(rung).or_insert_with(|| (seconds, reason.into()));
    }

    /// A rung was looked at in vain.
    pub(super) fn miss(&mut self, rung: Rung, reason: impl Into<String>) {
        self.missed.entry(rung).or_insert_with(|| reason.into());
    }

    /// Nobody looked at a rung.
    pub(super) fn skip(&mut self, rung: Rung, reason: impl Into<String>) {
        self.not_tried.entry(rung).or_insert_with(|| reason.into());
    }

    /// Concludes from what was seen at this moment since the start.
    pub(super) fn look(&mut self, seen: &Seen, seconds: f64) {
        let at = Some(seconds);
        if seen.ran {
            self.reach(Rung::PowerOn, at, "QEMU runs it");
        }
        let probing = seen.disks.saturating_mul(FIRMWARE_BLOCKS);
        if seen.has_kernel_of_host && seen.ran {
            self.reach(Rung::Firmware, at, "its kernel is a file of the host");
        } else if seen.read_blocks > probing {
            let reason = format!("it read {} blocks of its disks", seen.read_blocks);
            self.reach(Rung::Firmware, at, reason);
        }
        if let Some(line) = kernel_line(&seen.console) {
            self.reach(Rung::Kernel, at, format!("the console says {line:?}"));
        } else if seen.written > LOADER_WRITES {
            self.reach(Rung::Kernel, at, format!("it wrote {} bytes to its disks", seen.written));
        }
        if let Some(line) = login_line(&seen.console) {
            self.reach(Rung::Login, at, format!("the console says {line:?}"));
        }
        if seen.agent {
            self.reach(Rung::Agent, at, "the guest agent answered");
        }
    }

    /// The highest rung that was reached since the machine was started.
    pub(super) fn highest(&self) -> Option<Rung> {
        self.reached.keys().next_back().copied().filter(|rung| *rung >= Rung::PowerOn)
    }

    /// The rung that the machine is on its way to.
    pub(super) fn next(&self) -> Rung {
        let highest = self.highest();
        let above = |rung: &Rung| *rung >= Rung::PowerOn && Some(*rung) > highest;
        Rung::ALL.into_iter().find(above).unwrap_or(Rung::Script)
    }

    /// Whether a rung was reached, by itself or by one above it.
    pub(super) fn has(&self, rung: Rung) -> bool {
        self.highest().is_some_and(|highest| highest >= rung)
    }

    /// The first thing below or at a rung that was looked at in vain.
    pub(super) fn first_missed(&self, until: Rung) -> Option<(Rung, &str)> {
        let missed = self.missed.iter().find(|(rung, _)| **rung <= until);
        missed.map(|(rung, reason)| (*rung, reason.as_str()))
    }

    /// Every rung, with a reason. What nobody has decided was waited for if it was expected.
    pub(super) fn report(&self, expected: Rung, why_ended: &str) -> Vec<RungReport> {
        Rung::ALL.into_iter().map(|rung| self.rung(rung, expected, why_ended)).collect()
    }

    fn rung(&self, rung: Rung, expected: Rung, why_ended: &str) -> RungReport {
        let made = |outcome, seconds, reason: &str| RungReport {
            rung,
            outcome,
            seconds,
            reason: reason.to_owned(),
        };
        if let Some((seconds, reason)) = self.reached.get(&rung) {
            return made(RungOutcome::Reached, *seconds, reason);
        }
        if let Some(reason) = self.missed.get(&rung) {
            return made(RungOutcome::Missed, None, reason);
        }
        if let Some(reason) = self.not_tried.get(&rung) {
            return made(RungOutcome::NotTried, None, reason);
        }
        // A service needs a kernel, and a login is not asked for on every console.
        let above = self.reached.range(rung..).next();
        if let (true, Some((higher, (seconds, _)))) = (rung >= Rung::PowerOn, above) {
            let reason = format!("not seen by itself; {higher} needs it");
            let seconds = seconds.filter(|_| rung != Rung::Login);
            return if rung == Rung::Login {
                made(RungOutcome::NotTried, None, "the console asked for no login before that")
            } else {
                made(RungOutcome::Reached, seconds, &reason)
            };
        }
        if rung <= expected {
            made(RungOutcome::Missed, None, why_ended)
        } else {
            made(RungOutcome::NotTried, None, "not waited for")
        }
    }
}

/// How often a machine may start again: after a repair of its disks, or a label of its files.
const RESTARTS: usize = 3;

/// Why a machine does not come further, if it says so.
pub(super) fn stuck(console: &str) -> Option<String> {
    if console.matches("reboot: Restarting system").count() >= RESTARTS {
        return Some("it starts again and again: \"reboot: Restarting system\"".to_owned());
    }
    let found = STUCK.iter().filter_map(|(words, meaning)| {
        let at = console.find(words)?;
        Some((at, *meaning))
    });
    let (at, meaning) = found.min_by_key(|(at, _)| *at)?;
    Some(format!("{meaning}: {:?}", line_at(console, at)))
}

fn kernel_line(console: &str) -> Option<String> {
    let words = KERNELS.iter().filter_map(|words| console.find(words));
    let stamped = console.match_indices('[').map(|(at, _)| at).find(|at| is_stamp(console, *at));
    let at = words.chain(stamped).min()?;
    Some(line_at(console, at))
}

/// Whether the time stamp of a Linux kernel stands at the begin of a line here: `[    0.123456] `.
fn is_stamp(console: &str, at: usize) -> bool {
    let before = console.get(..at).unwrap_or_default();
    let rest = console.get(at..).unwrap_or_default();
    let Some((inside, after)) = rest.get(1..).and_then(|rest| rest.split_once(']')) else {
        return false;
    };
    let Some((seconds, part)) = inside.split_once('.') else { return false };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    (before.is_empty() || before.ends_with('\n'))
        && inside.len() <= 16
        && part.len() == 6
        && is_number(seconds.trim_start())
        && is_number(part)
        && after.starts_with(' ')
}

/// A prompt of getty: the name of the machine, and `login:`. What a kernel writes may follow on the same line.
fn login_line(console: &str) -> Option<String> {
    let mut places = console.match_indices("login:").map(|(at, _)| at);
    let is_prompt = |at: &usize| {
        let before = console.get(..*at).unwrap_or_default();
        let name = before.rsplit('\n').next().unwrap_or_default().trim();
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        !name.is_empty() && name.chars().all(is_of_name) && !name.eq_ignore_ascii_case("last")
    };
    let at = places.find(is_prompt)?;
    let line = line_at(console, at);
    Some(line.split_inclusive("login:").next().unwrap_or_default().to_owned())
}

/// The line of a text that has this place, cut to what can be quoted.
fn line_at(text: &str, at: usize) -> String {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |place| place + 1);
    let line = text.get(start..).unwrap_or_default().split('\n').next().unwrap_or_default();
    line.trim().chars().take(LINE_MAX).collect()
}

/// The text of a console: no escape sequences, and no control characters but ends of lines.
pub(super) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                // CSI sequences end with a letter or the like, OSC sequences with BEL or ESC and a backslash; others
                // are one character long.
                match characters.next() {
                    Some('[') => {
                        while characters.next_if(|c| !('@'..='~').contains(c)).is_some() {}
                        characters.next();
                    }
                    Some(']') => {
                        while characters
                            .next_if(|c| !matches!(c, '\u{7}' | '\u{1b}' | '\n'))
                            .is_some()
                        {}
                        if characters.next_if_eq(&'\u{1b}').is_some() {
                            characters.next_if_eq(&'\\');
                        }
                    }
                    _ => {}
                }
            }
            '\n' => plain.push('\n'),
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use RungOutcome::{Missed, NotTried, Reached};
    use proptest::prelude::*;

    use super::*;

    fn looked(seen: &Seen) -> Ladder {
        let mut ladder = Ladder::default();
        ladder.look(seen, 3.0);
        ladder
    }

    fn highest(seen: &Seen) -> Option<Rung> {
        looked(seen).highest()
    }

    #[test]
    fn each_rung_has_its_evidence() {
        let off = Seen { disks: 2, ..Seen::default() };
        assert_eq!(highest(&off), None);
        let on = Seen { ran: true, ..off };
        assert_eq!(highest(&on), Some(Rung::PowerOn));
        let probed = Seen { read_blocks: 8, ..on.clone() };
        assert_eq!(highest(&probed), Some(Rung::PowerOn));
        let loaded = Seen { read_blocks: 9, written: 65536, ..on.clone() };
        assert_eq!(highest(&loaded), Some(Rung::Firmware));
        let direct = Seen { has_kernel_of_host: true, ..on.clone() };
        assert_eq!(highest(&direct), Some(Rung::Firmware));
        let wrote = Seen { written: 1 << 20, ..on.clone() };
        assert_eq!(highest(&wrote), Some(Rung::Kernel));
        let console = |text: &str| Seen { console: text.to_owned(), ..on.clone() };
        for text in [
            "junk\n[    0.000000] Linux version 6.1\n",
            "[   12.345678] sd 0:0\n",
            "systemd[1]: Started\n",
        ] {
            assert_eq!(highest(&console(text)), Some(Rung::Kernel), "{text}");
        }
        for text in ["[0.1] no\n", "say [    0.123456] no\n", "[    a.123456] no\n", "[", "[]."] {
            assert_eq!(highest(&console(text)), Some(Rung::PowerOn), "{text}");
        }
        assert_eq!(highest(&console("Debian 12 web ttyS0\n\nweb login: ")), Some(Rung::Login));
        let followed = "\nweb login: [   12.345] random: crng init done\n";
        assert_eq!(login_line(followed).as_deref(), Some("web login:"));
        for text in [
            "login:",
            "x\u{fffd}y login: z\n",
            "Last login: yesterday\n",
            "please do not login: x\n",
            "logins\n",
        ] {
            assert_eq!(highest(&console(text)), Some(Rung::PowerOn), "{text}");
        }
        let agent = Seen { agent: true, ..on };
        assert_eq!(highest(&agent), Some(Rung::Agent));
    }

    #[test]
    fn every_rung_is_reported_and_none_is_passed_over_in_silence() {
        let mut ladder = looked(&Seen { ran: true, agent: true, ..Seen::default() });
        ladder.reach(Rung::FileSystems, None, "2 of 2 were opened");
        ladder.skip(Rung::Digests, "not asked for");
        ladder.miss(Rung::Services, "nginx is inactive");
        let report = ladder.report(Rung::Services, "it was idle for 60 s");
        assert_eq!(report.iter().map(|one| one.rung).collect::<Vec<_>>(), Rung::ALL);
        let outcomes: Vec<_> = report.iter().map(|one| one.outcome).collect();
        assert_eq!(
            outcomes,
            [NotTried, Reached, Reached, Reached, Reached, NotTried, Reached, Missed, NotTried]
        );
        assert!(report.iter().all(|one| !one.reason.is_empty()));
        assert_eq!(ladder.first_missed(Rung::Script), Some((Rung::Services, "nginx is inactive")));
        assert_eq!(ladder.first_missed(Rung::Agent), None);
        // What was expected and never came is missed, for the reason for which the wait ended.
        let ladder = looked(&Seen { ran: true, ..Seen::default() });
        let report = ladder.report(Rung::Kernel, "it was idle for 60 s");
        let kernel = report.iter().find(|one| one.rung == Rung::Kernel).expect("there");
        assert_eq!((kernel.outcome, kernel.reason.as_str()), (Missed, "it was idle for 60 s"));
    }

    #[test]
    fn a_boot_that_is_stuck_says_why() {
        let panic = "[    1.5] VFS: Unable to mount root fs on unknown-block(0,0)\n\
             [    1.6] Kernel panic - not syncing: VFS: Unable\n";
        let said = stuck(panic).expect("stuck");
        assert!(said.starts_with("the kernel cannot mount the root file system: "), "{said}");
        let dead = stuck("\nBooting from Hard Disk...\nNo bootable device.\n").expect("stuck");
        assert_eq!(dead, "the firmware found nothing to start: \"No bootable device.\"");
        let again = "[    9.1] reboot: Restarting system\n";
        assert_eq!((stuck(again), stuck(&again.repeat(2))), (None, None));
        assert!(stuck(&again.repeat(3)).is_some_and(|why| why.contains("again and again")));
        assert_eq!(stuck("Debian GNU/Linux 12 web ttyS0\n\nweb login: "), None);
    }

    #[test]
    fn a_console_is_made_plain() {
        let bytes = b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[1mGRUB\x1b[0m  version\r\n\x07a\xffb\x1bc\x1b]0;title\x07d\x1b]8;;x\x1b\\e";
        assert_eq!(plain(bytes), "GRUB  version\na\u{fffd}bde");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_writes_is_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let console = plain(&bytes);
            prop_assert!(console.chars().all(|c| c == '\n' || !c.is_control()));
            drop(stuck(&console));
            let ladder = looked(&Seen { ran: true, console, ..Seen::default() });
            prop_assert!(ladder.has(Rung::PowerOn));
            prop_assert_eq!(ladder.report(Rung::Script, "x").len(), Rung::ALL.len());
        }
    }
}
