//! What the fuzz targets do. Each takes any bytes for something that comes from outside, and must
//! return: no panic, no overflow, no memory beyond the limits of the format. Where bytes are
//! accepted, more is asserted: mostly that there is one spelling for each value.
//!
//! Ciphers would keep the fuzzer out of everything that is sealed. Therefore the targets `pack` and
//! `sealed` take the plain bytes where an object has sealed ones, and seal them themselves before
//! the parser opens them: the parsers behind the cipher see what a holder of the key, or a defect
//! of a writer, could have written.

mod blobs;
#[path = "../../crates/storage/tests/storage/requests.rs"]
mod storage;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use strongroom_base::{BLOCK_SIZE, Digest, PackId, PointId, check_name};
use strongroom_format::{
    IndexObject, Manifest, SealKey, VaultConfig,
    codec::{Decoder, Encoder, Encoding},
    pack::{self, Entry, Footer, Header},
    sealed::{self, SealedHeader, SealedKind},
};

pub use blobs::blobs_replication;

/// The key that everything sealed here is sealed with.
pub const KEY: [u8; 32] = [9; 32];

/// Bytes of the authentication tag.
const TAG: usize = 16;

/// Seals in place: all but the last 16 bytes are the plain text, which become the tag.
fn seal_in_place(ordinal: u32, aad: &[u8], bytes: &mut [u8]) {
    let Some(end) = bytes.len().checked_sub(TAG) else { return };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes"));
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&ordinal.to_le_bytes());
    let nonce = Nonce::assume_unique_for_key(nonce);
    let (plain, tag) = bytes.split_at_mut(end);
    let made = key.seal_in_place_separate_tag(nonce, Aad::from(aad), plain).expect("short");
    tag.copy_from_slice(made.as_ref());
}

/// The opposite of [`seal_in_place`]; the tag stays as it is. For making seeds.
pub fn open_in_place(ordinal: u32, aad: &[u8], bytes: &mut [u8]) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes"));
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&ordinal.to_le_bytes());
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, Aad::from(aad), bytes).expect("authentic");
}

/// The ordinal that a record is sealed with: that of its first block.
fn ordinal(entry: &Entry) -> u32 {
    entry.ordinal - u32::from(entry.part.at)
}

/// What is bound to a record.
pub fn record_aad(entry: &Entry) -> Vec<u8> {
    let kind = (1..=6).find(|n| pack::RecordKind::from_number(*n) == Some(entry.kind));
    let kind = kind.expect("a kind with a number");
    let (ordinal, plain_len) = (ordinal(entry), entry.record_plain_len());
    [&[kind, b'r', b'e', b'c'], &ordinal.to_le_bytes()[..], &plain_len.to_le_bytes()].concat()
}

/// What is bound to the trailer of a pack: the counts of its footer.
pub fn trailer_aad(pack: &[u8]) -> Vec<u8> {
    let counts = pack.len() - 20;
    [b"\0toc", &pack[counts..counts + 8]].concat()
}

/// A pack whose sealed parts are plain.
pub fn pack(data: &[u8]) {
    let size = data.len() as u64;
    let _ = Header::parse(data);
    let Ok(footer) = Footer::parse(data, size) else { return };
    let start = usize::try_from(footer.trailer_offset).expect("within the pack");
    let mut trailer = data[start..start + footer.trailer_len].to_vec();
    seal_in_place(u32::MAX, &trailer_aad(data), &mut trailer);
    let key = SealKey::new(&KEY);
    let Ok((entries, bases)) = footer.open_trailer(&key, &mut trailer) else { return };
    assert_eq!(
        entries.iter().filter(|e| e.kind.encoding() == Encoding::Delta).count(),
        bases.len()
    );
    let mut decoder = Decoder::new();
    for entry in &entries {
        let range = entry.offset as usize..(entry.offset + entry.stored_len) as usize;
        let mut sealed = data[range].to_vec();
        seal_in_place(ordinal(entry), &record_aad(entry), &mut sealed);
        let Ok(payload) = entry.open(&key, &mut sealed) else { continue };
        let mut plain = vec![0; entry.record_plain_len() as usize];
        assert!(plain.len() <= pack::MAX_PLAIN * pack::MAX_UNIT);
        assert!(entry.plain_start() + entry.plain_len as usize <= plain.len());
        let base = vec![7; BLOCK_SIZE];
        let base = payload.base.map(|_| base.as_slice());
        let _ = decoder.decode(entry.kind.encoding(), payload.bytes, base, &mut plain);
    }
}

/// A sealed object whose body is plain: header, encoding, encoded bytes.
pub fn sealed(data: &[u8]) {
    let kinds = [
        SealedKind::Manifest,
        SealedKind::Index,
        SealedKind::Writer,
        SealedKind::Condemned,
        SealedKind::Deleted,
        SealedKind::Item,
    ];
    let name = "points/x";
    for kind in kinds {
        let Ok(_) = SealedHeader::parse(data, kind) else { continue };
        let mut object = data.to_vec();
        let (header, body) = object.split_at_mut(64);
        seal_in_place(0, &[header, name.as_bytes()].concat(), body);
        if let Ok(plain) = sealed::open(kind, name, &SealKey::new(&KEY), object) {
            assert!(plain.len() <= sealed::MAX_SEALED_PLAIN);
        }
    }
}

/// The plain content of an index object.
pub fn index(data: &[u8]) {
    if let Ok(index) = IndexObject::decode(data) {
        assert_eq!(index.encode().expect("encodes"), data, "one spelling");
    }
}

/// The plain content of a manifest.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        let again = Manifest::decode(&manifest.encode().expect("encodes")).expect("decodes");
        assert_eq!((again.id, again.item), (manifest.id, manifest.item));
    }
}

/// `strongroom.json`.
pub fn config(data: &[u8]) {
    if let Ok(config) = VaultConfig::decode(data) {
        let again = config.encode().expect("encodes");
        assert_eq!(VaultConfig::decode(&again), Ok(config));
    }
}

/// A tree node.
pub fn node(data: &[u8]) {
    if let Ok(node) = strongroom_image::Node::decode(data) {
        assert_eq!(node.encode(), data, "one spelling");
    }
}

/// A payload: how it is encoded, how long its plain bytes are, its base's length, base, payload.
pub fn codec(data: &[u8]) {
    let Some((&[kind, plain_0, plain_1, plain_2, base_len], rest)) = data.split_first_chunk::<5>()
    else {
        return;
    };
    let plain_len = u32::from_le_bytes([plain_0, plain_1, plain_2 & 1, 0]);
    let mut plain = vec![0; (plain_len as usize).min(BLOCK_SIZE)];
    let (base, payload) = rest.split_at(usize::from(base_len).min(rest.len()));
    let encoding = [Encoding::Stored, Encoding::Zstd, Encoding::Delta][usize::from(kind % 3)];
    let _ = Decoder::new().decode(encoding, payload, Some(base), &mut plain);
}

/// Whatever a block and its base are, what is encoded is decoded to the same.
pub fn round_trip(data: &[u8]) {
    let Some((&[at], rest)) = data.split_first_chunk::<1>() else { return };
    let (base, plain) = rest.split_at(rest.len() * usize::from(at) / 256);
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut out = vec![0xaa; plain.len()];
    let (encoding, payload) = encoder.full(plain);
    decoder.decode(encoding, payload, None, &mut out).expect("decodes");
    assert_eq!(out, plain);
    out.fill(0x55);
    if let Some(delta) = encoder.delta(plain, base, plain.len().max(64)) {
        decoder.decode(Encoding::Delta, delta, Some(base), &mut out).expect("decodes");
        assert_eq!(out, plain);
    }
}

/// A key slot object.
pub fn slot(data: &[u8]) {
    strongroom_format::slot::fuzz_slot(data);
}

/// A key ring object.
pub fn ring(data: &[u8]) {
    strongroom_format::ring::fuzz_ring(data);
}

/// A PKCS#11 URI.
pub fn pkcs11_uri(data: &[u8]) {
    // Shown, each byte may become nine characters, and a URI of more than 4096 is refused.
    if data.len() <= 400 {
        strongroom_keys::fuzz_pkcs11_uri(data);
    }
}

/// An object's name, as a store lists it.
pub fn object_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = strongroom_objects::Key::new(text) {
        assert_eq!(key.as_str(), text);
        assert!(text.len() <= 512 && !text.starts_with('/') && !text.ends_with('/'));
        assert!(!format!("/{text}").contains("/."), "no hidden files, no way up");
        assert!(text.ends_with(key.file_name()) && !key.file_name().is_empty());
    }
}

/// Names and ids as users give them and stores list them.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if check_name(text) {
        assert!(strongroom_objects::Key::new(format!("x/{text}")).is_ok(), "safe as a file name");
    }
    if let Ok(id) = text.parse::<PointId>() {
        assert_eq!(id.to_string(), text, "one spelling");
        assert_eq!(PointId::from_bytes(id.to_bytes()), id);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(pack) = text.parse::<PackId>() {
        assert_eq!(pack.to_string(), text);
    }
}

/// A changed-ranges file.
pub fn changed_ranges(data: &[u8]) {
    strongroom_disk::fuzz::fuzz_changed_ranges(data);
}

/// A disk: tables of partitions, the first looks at file systems.
pub fn files_disk(data: &[u8]) {
    strongroom_files::fuzz::disk(data);
}

/// All files of NTFS and exFAT, given sector by sector.
pub fn files_tree(data: &[u8]) {
    strongroom_files::fuzz::tree(data);
}

/// Headers of LUKS.
pub fn files_encrypted(data: &[u8]) {
    strongroom_files::fuzz::encrypted(data);
}

/// Messages between the process that reads file systems and the one that asks.
pub fn files_messages(data: &[u8]) {
    strongroom_files::fuzz::messages(data);
}

/// What an NBD server sends.
pub fn nbd_reply(data: &[u8]) {
    strongroom_nbd::fuzz::fuzz_reply(data);
}

/// What an NBD client sends.
pub fn nbd_request(data: &[u8]) {
    strongroom_nbd::fuzz::fuzz_request(data);
}

/// An image file: qcow2, VHD, VHDX, VMDK.
pub fn image_header(data: &[u8]) {
    strongroom_disk::fuzz::fuzz_image(data);
}

/// A disk as a user names it.
pub fn disk_spec(data: &[u8]) {
    strongroom_disk::fuzz::fuzz_spec(data);
}

/// A machine's description. What comes out when it is changed is asserted there.
pub fn domain_xml(data: &[u8]) {
    strongroom_hypervisor::fuzz::fuzz_domain_xml(data);
}

/// What a host says that it can run.
pub fn host_xml(data: &[u8]) {
    strongroom_hypervisor::fuzz::fuzz_capabilities(data);
}

/// What `qemu-img` says of an image.
pub fn image_info(data: &[u8]) {
    strongroom_hypervisor::fuzz::fuzz_image_info(data);
}

/// A message of libvirt's daemon.
pub fn libvirt_message(data: &[u8]) {
    strongroom_hypervisor::fuzz::fuzz_message(data);
}

/// The archive of a machine's configuration. What is read is written and read again.
pub fn machine_configuration(data: &[u8]) {
    let Ok(configuration) = strongroom_machine::Configuration::from_archive(data) else { return };
    if let Ok(archive) = configuration.to_archive() {
        assert!(strongroom_machine::Configuration::from_archive(&archive).is_ok());
    }
}

/// A request of Azure's blob service, with its body.
pub fn azure_request(data: &[u8]) {
    strongroom_azure::fuzz::fuzz_request(data);
}

/// A structured body of Azure's blob service.
pub fn azure_structured(data: &[u8]) {
    strongroom_azure::fuzz::fuzz_structured(data);
}

/// Ids of snapshots, versions, connection strings.
pub fn azure_text(data: &[u8]) {
    strongroom_azure::fuzz::fuzz_text(data);
}

/// XML bodies of Azure's blob service.
pub fn azure_xml(data: &[u8]) {
    strongroom_azure::fuzz::fuzz_xml(data);
}

/// Requests to storage accounts that are open.
pub fn storage_requests(data: &[u8]) {
    let _ = storage::requests(data);
}
