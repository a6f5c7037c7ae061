//! Entry points for fuzzing: each takes outside bytes and must return, whatever they are.

/// What an NBD server sends.
pub fn fuzz_nbd_reply(bytes: &[u8]) {
    crate::nbd::fuzz(bytes);
}
