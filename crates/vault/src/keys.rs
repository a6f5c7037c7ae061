//! Temporary stand-in.
#![allow(missing_docs, clippy::all, clippy::pedantic, unused, reason = "temporary")]
use strongroom_base::*;
use strongroom_objects::*;
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("x")]
    X,
}
impl Coded for KeyError {
    fn code(&self) -> &'static Code {
        &codes::KEY_WRONG
    }
}
pub struct KeySource(pub [u8; 32]);
pub struct KeyRing(MasterKey);
#[derive(Clone)]
pub struct MasterKey([u8; 32]);
pub struct SecretKey([u8; 32]);
impl SecretKey {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
impl MasterKey {
    pub fn derive(&self, label: &str, ctx: &[u8]) -> SecretKey {
        SecretKey(*blake3::keyed_hash(&self.0, &[label.as_bytes(), &[0], ctx].concat()).as_bytes())
    }
}
impl KeyRing {
    pub fn create(
        _: &dyn ObjectStore,
        _: VaultId,
        k: &KeySource,
        _: &str,
        _: &dyn Clock,
        _: &dyn Entropy,
    ) -> Result<Self, KeyError> {
        Ok(Self(MasterKey(k.0)))
    }
    pub fn open(_: &dyn ObjectStore, _: VaultId, k: &KeySource) -> Result<Self, KeyError> {
        Ok(Self(MasterKey(k.0)))
    }
    pub fn oldest(&self) -> &MasterKey {
        &self.0
    }
    pub fn current(&self) -> (KeyId, &MasterKey) {
        (KeyId::from_bytes([0; 16]), &self.0)
    }
    pub fn get(&self, _: KeyId) -> Option<&MasterKey> {
        Some(&self.0)
    }
    pub fn refresh(&mut self, _: &dyn ObjectStore) -> Result<(), KeyError> {
        Ok(())
    }
}
