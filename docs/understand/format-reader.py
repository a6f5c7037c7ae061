#!/usr/bin/env python3
"""Reads a Strongroom vault in a folder, using nothing but docs/understand/format.md.

    format-reader.py VAULT KEY                              lists the recovery points
    format-reader.py VAULT KEY POINT DISK FILE [--no-index] restores a disk to a raw file
    format-reader.py VAULT KEY POINT --configuration FILE [--no-index]
                                                            writes the machine's configuration, an archive

KEY is a key file, or `passphrase:FILE`. With --no-index everything is found from the packs themselves.
This program is the proof that the specification suffices, and a way out that depends on no build of
Strongroom. It is slow, and needs: pip install cryptography blake3 zstandard argon2-cffi (the last one
for passphrases only).
"""

import base64
import hashlib
import hmac
import json
import pathlib
import struct
import sys

import blake3
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK = 65536
HOLE = bytes(32)
KINDS = {"points": 1, "index": 2}
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Damaged(Exception):
    """Something that must be refused."""


def need(condition, what):
    if not condition:
        raise Damaged(what)


# --- 3. Keys -------------------------------------------------------------------------------------


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def derive(key, label, context=b""):
    info = label.encode() + b"\0" + context
    return mac(mac(b"strongroom 1", key), info + b"\1")


def gcm_open(key, nonce, aad, sealed, what):
    try:
        return AESGCM(key).decrypt(nonce, bytes(sealed), bytes(aad))
    except InvalidTag:
        raise Damaged(f"{what} is not authentic") from None


def ulid(text):
    """The 16 bytes of an id."""
    need(len(text) == 26 and all(c in CROCKFORD for c in text) and text[0] <= "7", f"id {text!r}")
    value = 0
    for c in text:
        value = value << 5 | CROCKFORD.index(c)
    return value.to_bytes(16, "big")


def read_secret(path):
    data = pathlib.Path(path).read_bytes()
    need(len(data) <= 65536, "the secret file is too long")
    if data.endswith(b"\n"):
        data = data[:-1]
        if data.endswith(b"\r"):
            data = data[:-1]
    return data


def take_apart(data, limit):
    """HEAD as it stands, HEAD as an object, and the seal of a key object."""
    need(len(data) <= limit, "a key object is too long")
    text = data.decode()
    split = text.rfind(',"seal":"')
    need(text.startswith('{"head":') and split > 0 and text.endswith('"}\n'), "spelling of a key object")
    head, seal = text[8:split], text[split + 9 : -3]
    return head.encode(), json.loads(head), base64.b64decode(seal, validate=True)


def kek_of(kek, secret):
    """The key-encryption key, or None if the slot is of another kind or for another file."""
    kind, data = secret
    if kek["kind"] != kind:
        return None
    salt = base64.b64decode(kek["salt"])
    if kind == "key_file":
        root = mac(salt, data)
        print_ = derive(root, "key file fingerprint")[:16]
        return derive(root, "key file kek") if print_ == base64.b64decode(kek["fingerprint"]) else None
    import argon2.low_level as argon

    memory, passes = kek["cost"]["memory_kib"], kek["cost"]["passes"]
    need(8192 <= memory <= 1 << 20 and 1 <= passes <= 16 and memory * passes <= 4 << 20, "the cost")
    raw = argon.hash_secret_raw(data, salt, passes, memory, 1, 32, argon.Type.ID, 0x13)
    return derive(raw, "passphrase kek")


def hpke_open(private, enc, psk, psk_id, info, sealed):
    kem, suite = b"KEM\0\x20", b"HPKE\0\x20\0\1\0\2"

    def extract(salt, suite, label, ikm):
        return mac(salt, b"HPKE-v1" + suite + label + ikm)

    def expand(prk, suite, label, info, length):
        return mac(prk, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info + b"\1")[:length]

    public = private.public_key().public_bytes_raw()
    shared = extract(b"", kem, b"eae_prk", private.exchange(X25519PublicKey.from_public_bytes(enc)))
    shared = expand(shared, kem, b"shared_secret", enc + public, 32)
    hashes = extract(b"", suite, b"psk_id_hash", psk_id), extract(b"", suite, b"info_hash", info)
    context = b"\1" + b"".join(hashes)
    secret = extract(shared, suite, b"secret", psk)
    key, nonce = expand(secret, suite, b"key", context, 32), expand(secret, suite, b"base_nonce", context, 12)
    return gcm_open(key, nonce, b"", sealed, "the current master key")


class Keys:
    """The master keys of a vault, by id; `first` is the oldest."""

    def __init__(self, folder, vault, secret):
        self.folder, self.vault, self.vault_id = folder / "keys" / vault, vault, ulid(vault)
        rings = [p for d in ("rings", "copies/rings") for p in (self.folder / d).glob("*.json")]
        newest = max(int(path.stem) for path in rings)
        _, head, _ = take_apart(self.one_of(f"rings/{newest:08}.json", lambda _: True), 512 << 10)
        slot_id, private, self.first = self.unlock(head, secret)
        self.keys = self.open_keys(head, slot_id, private)
        self.verify(newest)

    def one_of(self, name, check):
        """An object, or its copy, that passes a check."""
        for path in self.folder / name, self.folder / "copies" / name:
            if path.is_file() and check(path.read_bytes()):
                return path.read_bytes()
        raise Damaged(f"no good copy of {name}")

    def unlock(self, ring, secret):
        for entry in ring["slots"]:
            digest = base64.b64decode(entry["digest"])
            data = self.one_of(f"slots/{entry['slot']}.json", lambda d: hashlib.sha256(d).digest() == digest)
            text, head, seal = take_apart(data, 16 << 10)
            need(head["kind"] == "strongroom key slot" and head["format"] == 1, "kind of a slot")
            need((head["vault"], head["slot"]) == (self.vault, entry["slot"]), "a slot of another vault")
            kek = kek_of(head["kek"], secret)
            if kek is None:
                continue
            try:
                opened = gcm_open(derive(kek, "key slot"), bytes(12), text, seal, "a slot")
            except Damaged:
                continue
            private = X25519PrivateKey.from_private_bytes(opened[:32])
            need(private.public_key().public_bytes_raw() == base64.b64decode(head["public_key"]), "slot key")
            return entry["slot"], private, (ulid(head["first_key"]), opened[32:])
        raise SystemExit("this key opens no slot of the vault")

    def open_keys(self, ring, slot_id, private):
        entry = next(entry for entry in ring["slots"] if entry["slot"] == slot_id)
        current_id = ulid(ring["current"])
        info = b"strongroom key ring 1\0" + self.vault_id + current_id + ulid(slot_id)
        psk = derive(self.first[1], "key ring to slots", self.vault_id)
        enc, sealed = base64.b64decode(entry["enc"]), base64.b64decode(entry["sealed"])
        current = hpke_open(private, enc, psk, self.first[0], info, sealed)
        keys = {}
        for older in ring["older"]:
            key_id = ulid(older["key"])
            key = derive(current, "older master key", self.vault_id + current_id + key_id)
            keys[key_id] = gcm_open(key, bytes(12), b"", base64.b64decode(older["sealed"]), "an older key")
        keys[current_id] = current
        need(next(iter(keys.items())) == self.first, "the first master key is another one")
        return keys

    def verify(self, newest):
        previous, known, signer = HOLE, [self.first[0]], self.first[0]
        for generation in range(1, newest + 1):
            data = self.one_of(f"rings/{generation:08}.json", lambda d: self.is_ring(d, signer))
            _, head, _ = take_apart(data, 512 << 10)
            need(head["kind"] == "strongroom key ring" and head["format"] == 1, "kind of a ring")
            need((head["vault"], head["generation"]) == (self.vault, generation), "another vault's ring")
            need(base64.b64decode(head["previous"]) == previous, "a ring that does not follow")
            keys = [ulid(older["key"]) for older in head["older"]] + [ulid(head["current"])]
            need(keys[: len(known)] == known and len(keys) <= len(known) + (generation > 1), "keys of a ring")
            previous, known, signer = hashlib.sha256(data).digest(), keys, keys[-1]
        need(known == list(self.keys), "the newest ring has other keys")

    def is_ring(self, data, signer):
        text, _, seal = take_apart(data, 512 << 10)
        return hmac.compare_digest(mac(derive(self.keys[signer], "key ring", self.vault_id), text), seal)


# --- 5. to 9. The vault --------------------------------------------------------------------------


class Vault:
    def __init__(self, folder, secret, use_index=True):
        self.folder = pathlib.Path(folder)
        try:
            config = json.loads((self.folder / "strongroom.json").read_bytes())
        except (OSError, ValueError) as error:
            (copy,) = self.folder.glob("keys/*/copies/strongroom.json")
            print(f"refused: strongroom.json: {error}; read from {copy}", file=sys.stderr)
            config = json.loads(copy.read_bytes())
        need(config["kind"] == "strongroom vault" and config["format"] in (1, 2), "not a vault of version 1 or 2")
        need((config["block_size"], config["fan_out"]) == (BLOCK, 256), "block size or fan-out")
        self.keys = Keys(self.folder, config["vault_id"], secret)
        first = self.keys.first[1]
        words = [config["create_only_puts"], *config.get("mirrors", [])]
        words += [f"format {config['format']}"] * (config["format"] > 1)
        text = b"".join(word.encode() + b"\0" for word in words)
        seal = mac(derive(first, "vault description", ulid(config["vault_id"])), text).hex()
        if config.get("seal") != seal:
            print("warning: strongroom.json has been altered; nothing is needed of what it says", file=sys.stderr)
        self.block_key, self.node_key = derive(first, "block digest"), derive(first, "node digest")
        self.name_key = derive(first, "item name")
        self.places = {}
        for path in sorted(self.folder.glob("index/*" if use_index else "packs/*/*/*")):
            try:
                if use_index:
                    self.read_index(self.unseal(path))
                else:
                    self.read_trailer(path)
            except (Damaged, struct.error, zstandard.ZstdError) as error:
                # What is in it may be elsewhere, or needed by nobody.
                print(f"refused: {path}: {error}", file=sys.stderr)

    def key(self, key_id, label, salt):
        need(key_id in self.keys.keys, "an unknown master key")
        return derive(self.keys.keys[key_id], label, salt)

    def unseal(self, path):
        name, data = path.relative_to(self.folder).as_posix(), path.read_bytes()
        need(80 < len(data) <= 97 << 20, name)
        magic, version, kind, reserved, length, key_id, salt = struct.unpack("<8sHBBI16s32s", data[:64])
        need(magic == b"SRSEAL\r\n" and version == 1 and reserved == 0, name)
        need(kind == KINDS[name.split("/")[0]] and length <= 96 << 20, name)
        body = gcm_open(self.key(key_id, "object", salt), bytes(12), data[:64] + name.encode(), data[64:], name)
        plain = body[1:] if body[0] == 0 else decompress(body[1:], length)
        need(body[0] <= 1 and len(plain) == length, name)
        return plain

    def read_index(self, plain):
        (count,), at = struct.unpack_from("<I", plain), 4
        for _ in range(count):
            name, kind, key_id, salt, size, records, bases = struct.unpack_from("<32sB16s32sQII", plain, at)
            length = 44 * records + 32 * bases
            need((kind & 15, kind >> 4) in ((1, 0), (2, 0), (1, 1), (1, 2)), "kind of a pack")
            self.add(name, kind & 15, key_id, salt, records, plain[at + 97 : at + 97 + length])
            at += 97 + length
        need(at == len(plain), "bytes behind an index")

    def read_trailer(self, path):
        name, data = bytes.fromhex(path.name), path.read_bytes()
        need(blake3.blake3(data).digest() == name, f"{path} has another hash")
        magic, version, kind, packing, reserved, key_id, salt = struct.unpack("<8sHBB4s16s32s", data[:64])
        need(magic == b"SRPACK\r\n" and reserved == bytes(4), "header of a pack")
        need((version, kind, packing) in ((1, 1, 0), (1, 2, 0), (2, 1, 1), (2, 1, 2)), "version of a pack")
        offset, length, records, bases, zero, version, magic = struct.unpack("<QIIIHH8s", data[-32:])
        need((zero, version, magic) == (0, 1, b"SRPKEND\n"), "footer of a pack")
        need(records <= 262144 and length == 44 * records + 32 * bases + 16, "counts of a pack")
        need(offset + length + 32 == len(data), "trailer of a pack")
        aad = b"\0toc" + struct.pack("<II", records, bases)
        sealed, nonce = data[offset : offset + length], b"\xff" * 4 + bytes(8)
        plain = gcm_open(self.key(key_id, "pack", salt), nonce, aad, sealed, "a trailer")
        self.add(name, kind, key_id, salt, records, plain)

    def add(self, name, kind, key_id, salt, records, table):
        next_offset, unit = 64, None
        for entry in range(records):
            digest, offset, stored, packed = struct.unpack_from("<32sIII", table, 44 * entry)
            record, length, at, blocks = packed >> 24, packed & 0xFFFFFF, 0, 1
            if record == 6:
                at, blocks, length = length & 0xFF, length >> 8, BLOCK
                need(2 <= blocks <= 16 and at < blocks, "a block of a unit")
            if unit is None:
                need(offset == next_offset and at == 0, "a record")
                next_offset += stored
            else:
                need(unit == (record, offset, stored, blocks, at), "a unit")
            unit = (record, offset, stored, blocks, at + 1) if at + 1 < blocks else None
            need(length <= BLOCK and digest != HOLE, "a record")
            place = (record, kind, name, key_id, salt, entry - at, offset, stored, at, blocks, length)
            self.places.setdefault(digest, []).append(place)
        need(unit is None, "a unit that is not complete")

    def payload(self, place):
        kind, pack_kind, name, key_id, salt, ordinal, offset, stored, at, blocks, length = place
        folder = {1: "data", 2: "node"}[pack_kind]
        with open(self.folder / "packs" / folder / name.hex()[:2] / name.hex(), "rb") as pack:
            pack.seek(offset)
            sealed = pack.read(stored)
        aad = bytes([kind]) + b"rec" + struct.pack("<II", ordinal, length * blocks)
        nonce = struct.pack("<I", ordinal) + bytes(8)
        return gcm_open(self.key(key_id, "pack", salt), nonce, aad, sealed, "a record")

    def find(self, digest, kinds, key):
        """The plain bytes of a digest, from the first of its records that is good."""
        fault = Damaged(f"{digest.hex()} is in no pack")
        for place in sorted(self.places.get(digest, [])):
            if place[0] not in kinds:
                continue
            try:
                plain = self.plain(place)
                need(len(plain) == place[-1] and blake3.blake3(plain, key=key).digest() == digest, "a digest")
                return plain
            except (Damaged, OSError, zstandard.ZstdError) as error:
                fault = error
        raise fault

    def plain(self, place):
        payload = self.payload(place)
        if place[0] in (1, 4):
            return payload
        if place[0] == 2:
            return decompress(payload, place[-1])
        if place[0] == 6:
            at, blocks, length = place[-3:]
            return decompress(payload, blocks * length)[at * length : (at + 1) * length]
        return decompress(payload[32:], place[-1], self.find(payload[:32], (1, 2, 6), self.block_key))

    # --- 7. Images

    def blocks(self, digest, level, first=0):
        """Number and digest of every block that is not a hole."""
        if digest == HOLE:
            return
        if level == 0:
            yield first, digest
            return
        node = self.find(digest, (4,), self.node_key)
        present = [c for c in range(256) if node[c >> 3] >> (c & 7) & 1]
        need(present and len(node) == 32 + 32 * len(present), "a node")
        for i, child in enumerate(present):
            yield from self.blocks(node[32 + 32 * i : 64 + 32 * i], level - 1, first * 256 + child)

    def restore_configuration(self, manifest, path):
        need("configuration" in manifest, "the recovery point has no configuration")
        length = manifest["configuration"]["length"]
        need(0 < length <= 64 << 20, "the length of a configuration")
        self.restore({"size_bytes": -(-length // 512) * 512, "root": manifest["configuration"]["root"]}, path)
        with open(path, "r+b") as file:
            file.truncate(length)

    def restore(self, disk, path):
        size, depth = disk["size_bytes"], 1
        need(0 < size <= 1 << 48 and size % 512 == 0, "the size of a disk")
        while 256**depth * BLOCK < size:
            depth += 1
        with open(path, "xb") as file:
            file.truncate(size)
            for number, digest in self.blocks(bytes.fromhex(disk["root"]), depth):
                need(number * BLOCK < size, "a block beyond the end")
                file.seek(number * BLOCK)
                file.write(self.find(digest, (1, 2, 3, 6), self.block_key)[: size - number * BLOCK])

    # --- 8. Recovery points

    def points(self):
        found = [path for path in self.folder.glob("points/*/*") if path.read_bytes()[10:11] != b"\x09"]  # voids
        for path in sorted(found, key=lambda path: path.name):
            if (self.folder / "deleted" / path.parent.name / path.name).exists():
                continue
            try:
                manifest = json.loads(self.unseal(path))
                need(manifest["format"] == 1 and manifest["id"] == path.name, "a manifest")
                folder = blake3.blake3(manifest["item"].encode(), key=self.name_key).digest()[:16].hex()
                need(folder == path.parent.name, "a manifest of another item")
            except (Damaged, ValueError) as error:
                print(f"refused: {path}: {error}", file=sys.stderr)
                continue
            yield manifest


def decompress(data, length, base=None):
    raw = zstandard.DICT_TYPE_RAWCONTENT
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=raw) if base else None
    need(zstandard.frame_content_size(data) in (-1, length), "a frame")
    return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(data, max_output_size=length)


def main(arguments):
    use_index = "--no-index" not in arguments
    arguments = [argument for argument in arguments if argument != "--no-index"]
    if len(arguments) not in (2, 5):
        raise SystemExit(__doc__)
    kind, path = ("passphrase", arguments[1][11:]) if arguments[1].startswith("passphrase:") else ("key_file", arguments[1])
    vault = Vault(arguments[0], (kind, read_secret(path)), use_index)
    for manifest in vault.points():
        if len(arguments) == 2:
            disks = " ".join(f"{disk['name']}:{disk['size_bytes']}" for disk in manifest["disks"])
            print(manifest["id"], manifest["time"], manifest["item"], disks)
        elif manifest["id"] == arguments[2] and arguments[3] == "--configuration":
            vault.restore_configuration(manifest, arguments[4])
            return
        elif manifest["id"] == arguments[2]:
            vault.restore(next(disk for disk in manifest["disks"] if disk["name"] == arguments[3]), arguments[4])
            return
    if len(arguments) == 5:
        raise SystemExit("there is no such recovery point")


if __name__ == "__main__":
    main(sys.argv[1:])
