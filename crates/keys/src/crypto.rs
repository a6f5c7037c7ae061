//! The few primitives that keys are made of, and HPKE (RFC 9180) with a pre-shared key.
//!
//! HPKE is used in one suite only: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, mode
//! `psk`, one message per context. The pre-shared key matters twice: without it anybody could
//! seal a master key of their own to a slot's public key, and anybody who kept a copy of the
//! vault could open it once X25519 is broken by a quantum computer.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, PrivateKey, UnparsedPublicKey, X25519},
    digest, hmac,
};
use strongroom_format::secret::SecretKey;
use zeroize::{Zeroize as _, Zeroizing};

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// HMAC-SHA256 of the parts in a row.
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> SecretKey {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    let key = SecretKey::new(out);
    out.zeroize();
    key
}

/// Whether `tag` is the HMAC-SHA256 of `data`; takes the same time for every wrong tag.
pub(super) fn hmac_is(key: &SecretKey, data: &[u8], tag: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), data, tag).is_ok()
}

fn aead(key: &SecretKey) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).ok()?))
}

fn seal_with(key: &SecretKey, nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = Zeroizing::new(plain.to_vec());
    let tag = aead(key)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut sealed,
        )
        .ok()?;
    Some([sealed.as_slice(), tag.as_ref()].concat())
}

fn open_with(
    key: &SecretKey,
    nonce: [u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut plain = Zeroizing::new(sealed.to_vec());
    let len = aead(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut plain)
        .ok()?
        .len();
    plain.truncate(len);
    Some(plain)
}

/// AES-256-GCM with a key that seals one message ever (or the same one again), so that the nonce
/// can be zero. `None` cannot happen for short messages.
pub(super) fn seal_once(key: &SecretKey, aad: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    seal_with(key, [0; 12], aad, plain)
}

/// Opens what [`seal_once`] made; `None` if it is not authentic.
pub(super) fn open_once(key: &SecretKey, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    open_with(key, [0; 12], aad, sealed)
}

/// The public X25519 key of a private one.
pub(super) fn public_key(private: &SecretKey) -> Option<[u8; 32]> {
    let private = PrivateKey::from_private_key(&X25519, private.as_bytes()).ok()?;
    private.compute_public_key().ok()?.as_ref().try_into().ok()
}

/// The pre-shared key of an HPKE context, its name, and the context's purpose.
pub(super) struct Psk<'a> {
    /// Secret that both sides have.
    pub(super) key: &'a SecretKey,
    /// Its public name.
    pub(super) id: &'a [u8],
    /// What is sealed for whom.
    pub(super) info: &'a [u8],
}

const KEM: &[u8] = b"KEM\x00\x20";
const HPKE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x02";
const MODE_PSK: u8 = 1;

fn extract(salt: &[u8], suite: &[u8], label: &[u8], ikm: &[u8]) -> SecretKey {
    hmac_sha256(salt, &[b"HPKE-v1", suite, label, ikm])
}

/// HKDF-Expand of at most 32 bytes, of which the caller takes the first `len`.
fn expand(prk: &SecretKey, suite: &[u8], label: &[u8], info: &[u8], len: u8) -> SecretKey {
    hmac_sha256(prk.as_bytes(), &[&[0, len], b"HPKE-v1", suite, label, info, &[1]])
}

/// The AEAD key and nonce of a context, from the private key of one side and the public keys of
/// both.
fn schedule(
    private: &SecretKey,
    peer: &[u8; 32],
    (enc, receiver): (&[u8; 32], &[u8; 32]),
    psk: &Psk<'_>,
) -> Option<(SecretKey, [u8; 12])> {
    let private = PrivateKey::from_private_key(&X25519, private.as_bytes()).ok()?;
    let peer = UnparsedPublicKey::new(&X25519, peer);
    let prk = agreement::agree(&private, peer, (), |dh| Ok(extract(b"", KEM, b"eae_prk", dh)));
    let shared = expand(&prk.ok()?, KEM, b"shared_secret", &[*enc, *receiver].concat(), 32);

    let psk_id_hash = extract(b"", HPKE, b"psk_id_hash", psk.id);
    let info_hash = extract(b"", HPKE, b"info_hash", psk.info);
    let context =
        [&[MODE_PSK], psk_id_hash.as_bytes().as_slice(), info_hash.as_bytes().as_slice()].concat();
    let secret = extract(shared.as_bytes(), HPKE, b"secret", psk.key.as_bytes());
    let key = expand(&secret, HPKE, b"key", &context, 32);
    let nonce = expand(&secret, HPKE, b"base_nonce", &context, 12);
    Some((key, *nonce.as_bytes().first_chunk()?))
}

/// Seals `plain` to a public key; `ephemeral` must be fresh. Returns the ephemeral public key and
/// the ciphertext; `None` if the public key is not a good one.
pub(super) fn hpke_seal(
    ephemeral: &SecretKey,
    receiver: &[u8; 32],
    psk: &Psk<'_>,
    aad: &[u8],
    plain: &[u8],
) -> Option<([u8; 32], Vec<u8>)> {
    let enc = public_key(ephemeral)?;
    let (key, nonce) = schedule(ephemeral, receiver, (&enc, receiver), psk)?;
    Some((enc, seal_with(&key, nonce, aad, plain)?))
}

/// Opens what [`hpke_seal`] made; `None` if it is not authentic.
pub(super) fn hpke_open(
    private: &SecretKey,
    enc: &[u8; 32],
    psk: &Psk<'_>,
    aad: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let receiver = public_key(private)?;
    let (key, nonce) = schedule(private, enc, (enc, &receiver), psk)?;
    open_with(&key, nonce, aad, sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digits).collect()
    }

    /// Made with another implementation of RFC 9180 (the Python package pyhpke).
    #[test]
    fn hpke_is_that_of_the_rfc() {
        let ephemeral = SecretKey::new([3; 32]);
        let receiver = SecretKey::new([5; 32]);
        let psk_key = SecretKey::new([9; 32]);
        let psk = Psk { key: &psk_key, id: b"psk id", info: b"info" };
        let receiver_public = public_key(&receiver).expect("key");
        let (enc, sealed) =
            hpke_seal(&ephemeral, &receiver_public, &psk, b"aad", b"a secret").expect("seals");
        assert_eq!(
            enc.to_vec(),
            unhex("5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22")
        );
        assert_eq!(sealed, unhex("c265077958c004ac1fd230cb4af38507dfb3f561bf5e9585"));
        let opened = hpke_open(&receiver, &enc, &psk, b"aad", &sealed).expect("opens");
        assert_eq!(opened.as_slice(), b"a secret");

        let other = SecretKey::new([8; 32]);
        let forged = Psk { key: &other, ..psk };
        assert!(hpke_open(&receiver, &enc, &forged, b"aad", &sealed).is_none());
        assert!(hpke_open(&other, &enc, &psk, b"aad", &sealed).is_none());
        assert!(hpke_open(&receiver, &enc, &psk, b"aaa", &sealed).is_none());
        assert!(
            hpke_seal(&ephemeral, &[0; 32], &psk, b"", b"").is_none(),
            "a public key of no order"
        );
    }
}
