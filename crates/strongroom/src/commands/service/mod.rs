//! Commands of the service: they ask a server.
//!
//! A command that can also work on a vault directly is in the file of the direct one, and comes here
//! when a server was named.

pub(crate) mod access;
pub(crate) mod alert;
pub(crate) mod audit;
pub(crate) mod boot;
pub(crate) mod common;
pub(crate) mod context;
pub(crate) mod host;
pub(crate) mod item;
pub(crate) mod job;
pub(crate) mod point;
pub(crate) mod policy;
pub(crate) mod policy_rules;
pub(crate) mod protection;
pub(crate) mod restore;
pub(crate) mod status;
pub(crate) mod vault;
