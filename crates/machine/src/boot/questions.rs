//! What the guest's agent is asked beyond whether it answers: services, ports, a script.

use std::time::Duration;

use strongroom_hypervisor::{
    HypervisorError,
    agent::{self, Agent, Exit},
};

/// How long a question may take in the guest.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most characters of a program's words that are quoted.
const WORDS_MAX: usize = 300;

type Answer = Result<(), String>;

/// Whether a service of the guest's system runs: of systemd, or of Windows.
pub(super) fn service(agent: &dyn Agent, name: &str) -> Answer {
    let is_windows = agent::os_id(agent).is_ok_and(|id| id == "mswindows");
    let (program, arguments) =
        if is_windows { ("sc.exe", ["query", name]) } else { ("systemctl", ["is-active", name]) };
    let exit = ended(program, agent::run(agent, program, &arguments, PATIENCE))?;
    let said = words(&exit.stdout);
    let runs = if is_windows { said.contains("RUNNING") } else { exit.code == Some(0) };
    if runs { Ok(()) } else { Err(format!("service {name} does not run: {program} says {said:?}")) }
}

/// Whether a program of the guest listens at a TCP port.
pub(super) fn port(agent: &dyn Agent, port: u16) -> Answer {
    let closed = || format!("nothing listens at port {port}");
    let mut is_linux = false;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(Some(bytes)) = agent::read_file(agent, table) {
            is_linux = true;
            if listens(&String::from_utf8_lossy(&bytes), port) {
                return Ok(());
            }
        }
    }
    if is_linux {
        return Err(closed());
    }
    let exit = ended("netstat", agent::run(agent, "netstat", &["-an"], PATIENCE))?;
    let said = String::from_utf8_lossy(&exit.stdout);
    let end = format!(":{port}");
    let is_it = |line: &str| {
        line.contains("LISTEN") && line.split_whitespace().any(|word| word.ends_with(&end))
    };
    if said.lines().any(is_it) { Ok(()) } else { Err(closed()) }
}

/// Whether a line of Linux's table of sockets is one that listens at this port.
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state) = (words.next(), words.next(), words.next());
        let found = local.and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
        found == Some(port) && state == Some("0A")
    })
}

/// Runs a program in the guest, which must end with 0 in time.
pub(super) fn script(agent: &dyn Agent, path: &str, patience: Duration) -> Answer {
    let exit = ended(path, agent::run(agent, path, &[], patience))?;
    let said = words(if exit.stderr.is_empty() { &exit.stdout } else { &exit.stderr });
    match (exit.code, exit.signal) {
        (Some(0), None) => Ok(()),
        (Some(code), _) => Err(format!("{path} ended with {code}: {said:?}")),
        (None, _) => Err(format!("{path} was ended by a signal: {said:?}")),
    }
}

fn ended(program: &str, run: Result<Option<Exit>, HypervisorError>) -> Result<Exit, String> {
    match run {
        Ok(Some(exit)) => Ok(exit),
        Ok(None) => Err(format!("{program} did not end in time")),
        Err(error) => Err(format!("{program} could not be run in the guest: {error}")),
    }
}

fn words(bytes: &[u8]) -> String {
    super::ladder::plain(bytes).trim().chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_in_the_tables_of_linux() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
             \u{20}  0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
             \u{20}  1: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
             \u{20}  2: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000\n";
        assert!(listens(table, 22) && listens(table, 80));
        assert!(!listens(table, 8080), "a connection is no listener");
        assert!(!listens(table, 443) && !listens("", 22) && !listens("x\ny", 22));
        let six = "  sl\n   0: 00000000000000000000000000000000:01BB 0000:0000 0A 0 0\n";
        assert!(listens(six, 443));
    }
}
