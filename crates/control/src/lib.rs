//! What happens and when: vaults, hosts, protection, policies, schedules, jobs, retention, access.
//!
//! This is the service without its network: whoever has a [`access::Caller`] may ask for what the API
//! offers, and the work itself is done by agents and keepers. It never touches a disk, a
//! hypervisor or a store, and knows nothing of HTTP.

pub mod access;
pub mod clock;
pub mod jobs;
