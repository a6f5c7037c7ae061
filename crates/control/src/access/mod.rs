//! Who somebody is: users, their rights, tokens, and how they sign in. What they may do is said by
//! [`crate::rights`].

pub(crate) mod known;
pub(crate) mod people;
pub(crate) mod seen;
pub(crate) mod sign_in;
mod throttle;
mod tokens;
pub(crate) mod used;
