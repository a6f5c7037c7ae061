//! What a machine can be asked that is booted to verify a recovery point.
//!
//! Pure: limits and forms. Who may ask, and when, is the matter of others.

use strongroom_api::{BootStep, BootWanted};
use strongroom_base::codes;

use crate::error::{ControlError, Result};

/// The least memory that a machine is given, and the least that it may write.
const MEMORY_MIN: u64 = 16 << 20;
const WRITES_MIN: u64 = 1 << 20;
const PROCESSORS_MAX: u32 = 512;
const SECONDS_MAX: u32 = 24 * 3600;
const LIST_MAX: usize = 100;
const TEXT_MAX: usize = 1000;

/// Refuses what no machine can be asked.
pub(crate) fn check_wanted(wanted: &BootWanted) -> Result<()> {
    let refused = |words: &'static str| Err(ControlError::refused(&codes::REQUEST_INVALID, words));
    match wanted.expect {
        None
        | Some(
            BootStep::PowerOn
            | BootStep::Firmware
            | BootStep::Kernel
            | BootStep::Login
            | BootStep::Agent,
        ) => {}
        Some(_) => return refused("expect is power_on, firmware, kernel, login or agent"),
    }
    if wanted.memory_bytes.is_some_and(|bytes| bytes < MEMORY_MIN) {
        return refused("memory_bytes is at least 16777216: no machine starts with less");
    }
    if wanted.writes_max_bytes.is_some_and(|bytes| bytes < WRITES_MIN) {
        return refused("writes_max_bytes is at least 1048576");
    }
    if wanted.processors.is_some_and(|count| !(1..=PROCESSORS_MAX).contains(&count)) {
        return refused("processors is 1 to 512");
    }
    for seconds in [wanted.timeout_seconds, wanted.idle_seconds].into_iter().flatten() {
        if !(1..=SECONDS_MAX).contains(&seconds) {
            return refused("timeout_seconds and idle_seconds are 1 to 86400");
        }
    }
    if wanted.services.len() > LIST_MAX || wanted.ports.len() > LIST_MAX {
        return refused("there are more than 100 services or ports");
    }
    if !wanted.services.iter().all(|name| is_service(name)) {
        return refused("a service has no name of a service");
    }
    if wanted.ports.contains(&0) {
        return refused("a port is 1 to 65535");
    }
    let is_text = |text: &String| {
        !text.is_empty() && text.len() <= TEXT_MAX && !text.chars().any(char::is_control)
    };
    if ![&wanted.script, &wanted.network].into_iter().flatten().all(is_text) {
        return refused("script and network are 1 to 1000 bytes without control characters");
    }
    Ok(())
}

/// It becomes an argument of a program in the guest.
fn is_service(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.@:\\ ".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('-') && name.chars().all(is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_can_be_asked_is_refused() {
        assert!(check_wanted(&BootWanted::default()).is_ok());
        let good = BootWanted {
            expect: Some(BootStep::Agent),
            services: vec!["postgresql@15-main".to_owned()],
            ports: vec![5432],
            script: Some("/usr/local/bin/check".to_owned()),
            network: Some("closed".to_owned()),
            memory_bytes: Some(MEMORY_MIN),
            processors: Some(1),
            timeout_seconds: Some(1),
            idle_seconds: Some(SECONDS_MAX),
            writes_max_bytes: Some(WRITES_MIN),
            read_all: true,
        };
        assert!(check_wanted(&good).is_ok());
        let bad = [
            BootWanted { expect: Some(BootStep::Script), ..good.clone() },
            BootWanted { memory_bytes: Some(MEMORY_MIN - 1), ..good.clone() },
            BootWanted { writes_max_bytes: Some(0), ..good.clone() },
            BootWanted { processors: Some(0), ..good.clone() },
            BootWanted { timeout_seconds: Some(0), ..good.clone() },
            BootWanted { idle_seconds: Some(SECONDS_MAX + 1), ..good.clone() },
            BootWanted { services: vec!["--now".to_owned()], ..good.clone() },
            BootWanted { services: vec![String::new()], ..good.clone() },
            BootWanted { services: vec!["a".to_owned(); LIST_MAX + 1], ..good.clone() },
            BootWanted { ports: vec![0], ..good.clone() },
            BootWanted { script: Some(String::new()), ..good.clone() },
            BootWanted { network: Some("a\nb".to_owned()), ..good },
        ];
        for wanted in bad {
            let error = check_wanted(&wanted).expect_err("refused").body();
            assert_eq!(error.code.as_str(), "request.invalid", "{wanted:?}");
        }
    }
}
