//! Who may do what: one table, and how it is asked.
//!
//! A user has roles in scopes: the server, a vault, an item, a host. A token narrows its user's rights and
//! never widens them. Objects that a user may not see are reported as not found.
//!
//! This part owns users, tokens, roles and the table of rights. It must not know what the operations do.

pub(crate) mod known;
pub(crate) mod people;
pub(crate) mod seen;
pub(crate) mod sign_in;
mod throttle;
mod tokens;
pub(crate) mod used;
