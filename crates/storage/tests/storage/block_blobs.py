"""Azure's client for Python against a server: every operation on block blobs and append blobs, and its errors.

    block_blobs.py PORT NAME=KEY...

Each function whose name begins with test_ is one test, and gets a container of its own.
"""

import base64
import hashlib
import io
import os
import sys
import time
import traceback
import uuid
from datetime import datetime, timedelta, timezone

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import (
    BlobBlock,
    BlobClient,
    BlobSasPermissions,
    BlobServiceClient,
    BlobType,
    BlockState,
    ContentSettings,
    StandardBlobTier,
    generate_blob_sas,
)

PORT = int(sys.argv[1])
KEYS = dict(pair.split("=", 1) for pair in sys.argv[2:])
MIB = 1 << 20


def service(account="acct", **named):
    return BlobServiceClient(f"http://127.0.0.1:{PORT}/{account}", retry_total=0,
                             credential={"account_name": account, "account_key": KEYS[account]}, **named)


def fails(code, work, *arguments, **named):
    """Whether the work is refused by this error code."""
    try:
        work(*arguments, **named)
    except HttpResponseError as error:
        assert error.error_code == code, f"{error.error_code} instead of {code}: {error}"
        return error
    raise AssertionError(f"{code} was expected")


def noise(length, seed=1):
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(length)


def content(blob, **named):
    return blob.download_blob(**named).readall()


def lists(blob, kind="all"):
    committed, waiting = blob.get_block_list(kind)
    return [(b.id, b.size) for b in committed], sorted((b.id, b.size) for b in waiting)


def shared(blob, account="acct", snapshot=None):
    sas = generate_blob_sas(account, blob.container_name, blob.blob_name, account_key=KEYS[account],
                            snapshot=snapshot, permission=BlobSasPermissions(read=True),
                            expiry=datetime.now(timezone.utc) + timedelta(hours=1))
    joint = "&" if "?" in blob.url else "?"
    return blob.url + joint + sas


def test_put_blob_in_one_piece(container):
    blob = container.get_blob_client("a b/ü.txt")
    blob.upload_blob(b"hello", metadata={"k": "v"}, content_settings=ContentSettings(content_type="text/plain"))
    found = blob.get_blob_properties()
    assert (found.size, found.blob_type) == (5, BlobType.BLOCKBLOB)
    assert found.content_settings.content_type == "text/plain" and found.metadata == {"k": "v"}
    assert found.content_settings.content_md5 == bytearray(hashlib.md5(b"hello").digest())
    assert found.blob_tier == "Hot" and found.blob_tier_inferred and found.page_blob_sequence_number is None
    assert content(blob) == b"hello" and content(blob, offset=1, length=3) == b"ell"
    assert lists(blob) == ([], [])
    fails("BlobAlreadyExists", blob.upload_blob, b"again")
    blob.upload_blob(b"", overwrite=True)
    assert content(blob) == b"" and blob.get_blob_properties().metadata == {}


def test_put_blob_is_checked(container):
    blob = container.get_blob_client("a")
    wrong = ContentSettings(content_md5=bytearray(16))
    fails("Md5Mismatch", blob.upload_blob, b"hello", content_settings=wrong)
    fails("BlobNotFound", blob.download_blob)
    blob.upload_blob(b"hello", validate_content=True)
    blob.upload_blob(noise(5 * MIB), validate_content="crc64", overwrite=True)
    assert content(blob, validate_content="crc64") == noise(5 * MIB)


def test_large_blobs_are_uploaded_in_one_request_and_in_blocks(container):
    data = noise(30 * MIB + 7)
    whole = container.get_blob_client("whole")
    whole.upload_blob(data)
    assert lists(whole) == ([], [])
    assert whole.get_blob_properties().content_settings.content_md5 == bytearray(hashlib.md5(data).digest())
    small = service(max_single_put_size=MIB, max_block_size=3 * MIB)
    blocks = small.get_blob_client(container.container_name, "blocks")
    blocks.upload_blob(io.BytesIO(data), max_concurrency=4)
    committed, waiting = lists(blocks)
    assert len(committed) == 11 and waiting == [] and sum(size for _, size in committed) == len(data)
    large = service(max_single_put_size=MIB, max_block_size=12 * MIB, min_large_block_upload_threshold=1)
    large.get_blob_client(container.container_name, "large").upload_blob(io.BytesIO(data))
    for name in ["whole", "blocks", "large"]:
        blob = container.get_blob_client(name)
        assert hashlib.md5(content(blob, max_concurrency=3)).digest() == hashlib.md5(data).digest(), name
        for at, length in [(0, 1), (3 * MIB - 5, 10), (12 * MIB - 1, 4097), (len(data) - 1, 1)]:
            assert content(blob, offset=at, length=length) == data[at:at + length], (name, at)


def test_a_stream_of_unknown_length(container):
    data = noise(9 * MIB + 3)
    parts = (data[at:at + 100000] for at in range(0, len(data), 100000))
    blob = container.get_blob_client("stream")
    blob.upload_blob(parts)
    assert content(blob) == data


def test_stage_and_commit(container):
    blob = container.get_blob_client("a")
    blob.stage_block("one", b"1" * 100)
    blob.stage_block("two", b"2" * 5000)
    fails("BlobNotFound", blob.get_blob_properties)
    assert lists(blob, "uncommitted") == ([], [("one", 100), ("two", 5000)])
    first = blob.commit_block_list([BlobBlock("two"), BlobBlock("one"), BlobBlock("two")], metadata={"a": "b"})
    assert content(blob) == b"2" * 5000 + b"1" * 100 + b"2" * 5000
    assert lists(blob) == ([("two", 5000), ("one", 100), ("two", 5000)], [])
    # A staged block changes nothing that is seen.
    blob.stage_block("one", b"new")
    blob.stage_block("six", b"6" * 10)
    found = blob.get_blob_properties()
    assert found.etag == first["etag"] and found.metadata == {"a": "b"}
    assert lists(blob) == ([("two", 5000), ("one", 100), ("two", 5000)], [("one", 3), ("six", 10)])
    # 12.31.1 ignores the state of a block: each is the latest one.
    blob.commit_block_list([BlobBlock("two", BlockState.COMMITTED), BlobBlock("one")])
    assert content(blob) == b"2" * 5000 + b"new"
    assert lists(blob)[1] == [] and blob.get_blob_properties().metadata == {}
    fails("InvalidBlockList", blob.commit_block_list, [BlobBlock("six")])
    blob.commit_block_list([])
    assert content(blob) == b""


def test_ids_of_blocks(container):
    blob = container.get_blob_client("a")
    blob.stage_block("one", b"1")
    assert fails("InvalidBlobOrBlock", blob.stage_block, "three", b"1").status_code == 400
    blob.stage_block("x" * 3, b"2")
    blob.commit_block_list([BlobBlock("one")])
    blob.stage_block("x" * 64, b"3")
    assert fails("InvalidBlockId", blob.stage_block, "x" * 65, b"4").status_code == 400


def test_put_blob_drops_what_waits(container):
    blob = container.get_blob_client("a")
    blob.stage_block("one", b"1")
    blob.upload_blob(b"whole")
    assert lists(blob) == ([], [])
    fails("InvalidBlockList", blob.commit_block_list, [BlobBlock("one")])
    blob.stage_block("two", b"2")
    blob.delete_blob()
    fails("BlobNotFound", blob.get_block_list, "all")


def test_uncommitted_blobs_are_listed_when_asked_for(container):
    for name in ["b/1", "b/2", "d"]:
        container.get_blob_client(name).stage_block("one", b"1")
    container.upload_blob("b/2", b"2")
    container.get_blob_client("b/2").stage_block("one", b"1")
    container.upload_blob("c", b"3")
    names = lambda **named: [(b.name, b.size) for b in container.list_blobs(**named)]
    assert names() == [("b/2", 1), ("c", 1)]
    everything = [("b/1", 0), ("b/2", 1), ("c", 1), ("d", 0)]
    assert names(include=["uncommittedblobs"]) == everything
    assert names(include=["uncommittedblobs"], results_per_page=1) == everything
    assert names(include=["uncommittedblobs"], name_starts_with="b/") == everything[:2]
    assert [b.name for b in container.walk_blobs(include=["uncommittedblobs"])] == ["b/", "c", "d"]
    assert {b.blob_type for b in container.list_blobs()} == {BlobType.BLOCKBLOB}


def test_conditions_and_leases(container):
    blob = container.get_blob_client("a")
    first = blob.upload_blob(b"1")
    fails("ConditionNotMet", blob.upload_blob, b"2", overwrite=True, etag='"0x1"',
          match_condition=MatchConditions.IfNotModified)
    second = blob.upload_blob(b"2", overwrite=True, etag=first["etag"],
                              match_condition=MatchConditions.IfNotModified)
    blob.stage_block("one", b"3")
    fails("ConditionNotMet", blob.commit_block_list, [BlobBlock("one")], etag=first["etag"],
          match_condition=MatchConditions.IfNotModified)
    fails("BlobAlreadyExists", blob.commit_block_list, [BlobBlock("one")],
          match_condition=MatchConditions.IfMissing)
    lease = blob.acquire_lease()
    fails("LeaseIdMissing", blob.stage_block, "two", b"4")
    fails("LeaseIdMissing", blob.commit_block_list, [BlobBlock("one")])
    fails("LeaseIdMissing", blob.upload_blob, b"5", overwrite=True)
    fails("LeaseIdMissing", blob.upload_blob, noise(5 * MIB), overwrite=True)
    fails("LeaseIdMismatchWithBlobOperation", blob.stage_block, "two", b"4", lease=str(uuid.uuid4()))
    blob.stage_block("two", b"4", lease=lease)
    blob.commit_block_list([BlobBlock("one"), BlobBlock("two")], etag=second["etag"], lease=lease,
                           match_condition=MatchConditions.IfNotModified)
    assert content(blob) == b"34" and blob.get_blob_properties().lease.state == "leased"
    blob.set_blob_metadata({"x": "y"}, lease=lease)
    blob.set_http_headers(ContentSettings(content_type="a/b"), lease=lease)
    lease.release()
    fails("ConditionNotMet", blob.download_blob, etag='"0x1"', match_condition=MatchConditions.IfNotModified)


def test_snapshots(container):
    blob = container.get_blob_client("a")
    blob.stage_block("one", noise(70000, 1))
    blob.stage_block("two", noise(70000, 2))
    blob.commit_block_list([BlobBlock("one"), BlobBlock("two")])
    first = blob.create_snapshot()["snapshot"]
    blob.stage_block("six", noise(9, 3))
    blob.commit_block_list([BlobBlock("six"), BlobBlock("two")])
    second = blob.create_snapshot()["snapshot"]
    blob.upload_blob(b"whole", overwrite=True)
    old = container.get_blob_client("a", snapshot=first)
    new = container.get_blob_client("a", snapshot=second)
    assert content(old) == noise(70000, 1) + noise(70000, 2) and lists(old)[0] == [("one", 70000), ("two", 70000)]
    assert content(new) == noise(9, 3) + noise(70000, 2) and lists(new)[0] == [("six", 9), ("two", 70000)]
    assert content(blob) == b"whole"
    shown = [(b.snapshot, b.size) for b in container.list_blobs(include=["snapshots"])]
    assert shown == [(first, 140000), (second, 70009), (None, 5)], shown
    old.delete_blob()
    assert content(new) == noise(9, 3) + noise(70000, 2)
    fails("SnapshotsPresent", blob.delete_blob)
    # A snapshot over its blob promotes it.
    copied = blob.start_copy_from_url(new.url)
    assert copied["copy_status"] == "success"
    assert content(blob) == noise(9, 3) + noise(70000, 2)
    blob.delete_blob(delete_snapshots="include")
    fails("BlobNotFound", new.get_blob_properties)


def test_appends(container):
    blob = container.get_blob_client("log")
    blob.create_append_blob(metadata={"a": "b"}, content_settings=ContentSettings(content_type="text/plain"))
    found = blob.get_blob_properties()
    assert (found.blob_type, found.size, found.append_blob_committed_block_count) == (BlobType.APPENDBLOB, 0, 0)
    whole = b""
    for n in range(1, 40):
        piece = noise(n * 131, n)
        done = blob.append_block(piece, appendpos_condition=len(whole))
        assert int(done["blob_append_offset"]) == len(whole), done
        assert int(done["blob_committed_block_count"]) == n
        whole += piece
    assert content(blob) == whole
    fails("AppendPositionConditionNotMet", blob.append_block, b"x", appendpos_condition=1)
    fails("MaxBlobSizeConditionNotMet", blob.append_block, b"x" * 10, maxsize_condition=len(whole) + 9)
    fails("ConditionNotMet", blob.append_block, b"x", etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    snapshot = blob.create_snapshot()["snapshot"]
    blob.append_block(noise(20 * MIB, 77))
    blob.append_block(b"end")
    assert content(blob) == whole + noise(20 * MIB, 77) + b"end"
    old = container.get_blob_client("log", snapshot=snapshot)
    assert content(old) == whole
    assert old.get_blob_properties().append_blob_committed_block_count == 39
    lease = blob.acquire_lease()
    fails("LeaseIdMissing", blob.append_block, b"x")
    blob.append_block(b"x", lease=lease)
    lease.release()
    fails("BlobAlreadyExists", blob.create_append_blob, match_condition=MatchConditions.IfMissing)
    blob.create_append_blob()
    assert content(blob) == b"" and content(old) == whole
    fails("BlobNotFound", container.get_blob_client("none").append_block, b"x")
    stream = container.get_blob_client("stream")
    stream.upload_blob(io.BytesIO(noise(9 * MIB)), blob_type="AppendBlob")
    stream.upload_blob(io.BytesIO(b"more"), blob_type="AppendBlob")
    assert content(stream) == noise(9 * MIB) + b"more"


def test_kinds_do_not_mix(container):
    page, block, log = (container.get_blob_client(name) for name in ["page", "block", "log"])
    page.create_page_blob(512)
    block.upload_blob(b"x" * 512)
    log.create_append_blob()
    for blob in [page, log]:
        assert fails("InvalidBlobType", blob.stage_block, "one", b"1").status_code == 409
        fails("InvalidBlobType", blob.stage_block, "one", noise(5 * MIB))
        fails("InvalidBlobType", blob.commit_block_list, [])
        fails("InvalidBlobType", blob.get_block_list)
    for blob in [page, block]:
        fails("InvalidBlobType", blob.append_block, b"1")
        fails("InvalidBlobType", blob.append_block, noise(5 * MIB))
    for blob in [block, log]:
        fails("InvalidBlobType", blob.upload_page, b"x" * 512, offset=0, length=512)
        fails("InvalidBlobType", blob.clear_page, offset=0, length=512)
        fails("InvalidBlobType", lambda: list(blob.list_page_ranges()))
        fails("InvalidBlobType", blob.resize_blob, 1024)
        fails("InvalidBlobType", blob.set_sequence_number, "update", "7")
    # Put Blob makes another kind of a blob.
    page.upload_blob(b"block", overwrite=True)
    assert page.get_blob_properties().blob_type == BlobType.BLOCKBLOB
    block.create_page_blob(512)
    assert block.get_blob_properties().blob_type == BlobType.PAGEBLOB


def test_tiers(container):
    blob = container.get_blob_client("a")
    blob.upload_blob(b"1", standard_blob_tier=StandardBlobTier.COOL)
    found = blob.get_blob_properties()
    assert found.blob_tier == "Cool" and not found.blob_tier_inferred
    for tier in ["Hot", "Cold", "Cool"]:
        blob.set_standard_blob_tier(tier)
        assert blob.get_blob_properties().blob_tier == tier
    assert [b.blob_tier for b in container.list_blobs()] == ["Cool"]
    etag = blob.get_blob_properties().etag
    assert fails("BlobAccessTierNotSupportedForAccountType", blob.set_standard_blob_tier, "Archive").status_code == 400
    fails("BlobAccessTierNotSupportedForAccountType", blob.upload_blob, b"2", overwrite=True,
          standard_blob_tier=StandardBlobTier.ARCHIVE)
    assert blob.get_blob_properties().etag == etag
    blob.upload_blob(b"2", overwrite=True)
    assert blob.get_blob_properties().blob_tier == "Cool", "the tier of what was overwritten"
    container.set_standard_blob_tier_blobs("Hot", "a")
    assert blob.get_blob_properties().blob_tier == "Hot"
    log = container.get_blob_client("log")
    log.create_append_blob()
    fails("AccessTierNotSupportedForBlobType", log.set_standard_blob_tier, "Cool")


def test_copies(container):
    source = container.get_blob_client("source")
    source.stage_block("one", noise(70001, 1))
    source.stage_block("two", noise(3 * MIB, 2))
    source.commit_block_list([BlobBlock("one"), BlobBlock("two"), BlobBlock("one")], metadata={"k": "v"},
                             content_settings=ContentSettings(content_type="x/y"))
    whole = noise(70001, 1) + noise(3 * MIB, 2) + noise(70001, 1)
    target = container.get_blob_client("target")
    target.start_copy_from_url(source.url)
    wait_for_copy(target)
    assert content(target) == whole and lists(target) == lists(source)
    found = target.get_blob_properties()
    assert found.metadata == {"k": "v"} and found.content_settings.content_type == "x/y"
    # The copied blocks can be used again.
    target.stage_block("six", b"6")
    target.commit_block_list([BlobBlock("two"), BlobBlock("six")])
    assert content(target) == noise(3 * MIB, 2) + b"6"
    assert target.get_blob_properties().copy.id is None
    # Into another account.
    other = service("geo").create_container("copies-" + uuid.uuid4().hex[:8]).get_blob_client("b")
    fails("CannotVerifyCopySource", other.start_copy_from_url, source.url)
    other.start_copy_from_url(shared(source))
    wait_for_copy(other)
    assert content(other) == whole
    log = container.get_blob_client("log")
    log.create_append_blob()
    log.append_block(noise(5000))
    log.append_block(noise(5000))
    copied = container.get_blob_client("log2")
    copied.start_copy_from_url(log.url)
    wait_for_copy(copied)
    assert content(copied) == noise(5000) * 2
    assert copied.get_blob_properties().append_blob_committed_block_count == 2
    copied.append_block(b"more")
    assert content(copied) == noise(5000) * 2 + b"more"
    fails("InvalidBlobType", copied.start_copy_from_url, source.url)
    sync = container.get_blob_client("sync")
    done = sync.start_copy_from_url(shared(source), requires_sync=True)
    assert done["copy_status"] == "success" and content(sync) == whole
    fails("IncrementalCopySourceMustBeSnapshot", container.get_blob_client("new").start_copy_from_url, source.url,
          incremental_copy=True)
    snapshot = source.create_snapshot()["snapshot"]
    fails("InvalidSourceBlobType", container.get_blob_client("new").start_copy_from_url,
          source.url + "?snapshot=" + snapshot, incremental_copy=True)


def wait_for_copy(blob):
    for _ in range(200):
        status = blob.get_blob_properties().copy.status
        if status != "pending":
            assert status == "success", status
            return
        time.sleep(0.05)
    raise AssertionError("the copy does not end")


def test_from_urls(container):
    source = container.get_blob_client("source")
    data = noise(6 * MIB + 5)
    source.upload_blob(data, metadata={"k": "v"}, content_settings=ContentSettings(content_type="x/y"))
    url = shared(source)
    blob = container.get_blob_client("blocks")
    blob.stage_block_from_url("one", url, source_offset=100, source_length=5000)
    md5 = bytearray(hashlib.md5(data[:1000]).digest())
    blob.stage_block_from_url("two", url, source_offset=0, source_length=1000, source_content_md5=md5)
    fails("Md5Mismatch", blob.stage_block_from_url, "bad", url, source_offset=1, source_length=1000,
          source_content_md5=md5)
    blob.stage_block_from_url("all", url)
    blob.commit_block_list([BlobBlock("two"), BlobBlock("all"), BlobBlock("one")])
    assert content(blob) == data[:1000] + data + data[100:5100]
    whole = container.get_blob_client("whole")
    whole.upload_blob_from_url(url)
    found = whole.get_blob_properties()
    assert content(whole) == data and lists(whole) == ([], [])
    assert found.content_settings.content_type == "x/y" and found.metadata == {"k": "v"}, found
    fails("BlobAlreadyExists", whole.upload_blob_from_url, url)
    whole.upload_blob_from_url(url, overwrite=True, include_source_blob_properties=False, metadata={"n": "1"})
    found = whole.get_blob_properties()
    assert found.content_settings.content_type == "application/octet-stream" and found.metadata == {"n": "1"}
    log = container.get_blob_client("log")
    log.create_append_blob()
    log.append_block_from_url(url, source_offset=0, source_length=10)
    log.append_block_from_url(url)
    assert content(log) == data[:10] + data
    other = service("geo").create_container("from-" + uuid.uuid4().hex[:8]).get_blob_client("b")
    error = fails("CannotVerifyCopySource", other.stage_block_from_url, "one", source.url)
    assert error.status_code == 404, error.status_code
    fails("CannotVerifyCopySource", other.upload_blob_from_url, source.url)
    fails("CannotVerifyCopySource", other.upload_blob_from_url, shared(container.get_blob_client("none")))


def test_only_new_blobs_with_a_signature_to_create(container):
    blob = container.get_blob_client("a")
    sas = generate_blob_sas("acct", container.container_name, "a", account_key=KEYS["acct"],
                            permission=BlobSasPermissions(create=True),
                            expiry=datetime.now(timezone.utc) + timedelta(hours=1))
    creator = BlobClient.from_blob_url(blob.url + "?" + sas, retry_total=0)
    creator.upload_blob(noise(5 * MIB), overwrite=True)
    fails("UnauthorizedBlobOverwrite", creator.upload_blob, b"2", overwrite=True)
    fails("UnauthorizedBlobOverwrite", creator.upload_blob, noise(5 * MIB), overwrite=True)
    assert content(blob) == noise(5 * MIB)


def test_many_blocks(container):
    blob = container.get_blob_client("many")
    ids = [f"{n:05}" for n in range(300)]
    for n, name in enumerate(ids):
        blob.stage_block(name, n.to_bytes(4, "big") * 3)
    blob.commit_block_list([BlobBlock(name) for name in reversed(ids)])
    whole = b"".join(n.to_bytes(4, "big") * 3 for n in reversed(range(300)))
    assert content(blob) == whole
    assert [name for name, _ in lists(blob)[0]] == list(reversed(ids))
    for at in [0, 12 * 128 - 1, 12 * 128, 3599]:
        assert content(blob, offset=at, length=5) == whole[at:at + 5]


def test_parallel_uploads_of_one_blob(container):
    from concurrent.futures import ThreadPoolExecutor
    blob = container.get_blob_client("a")
    sources = [noise(6 * MIB + n, n) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda data: blob.upload_blob(data, overwrite=True), sources))
    assert content(blob) in sources
    log = container.get_blob_client("log")
    log.create_append_blob()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(log.append_block, sources))
    whole = content(log)
    assert sorted(whole.count(source) for source in sources) == [1] * 6 and len(whole) == sum(map(len, sources))


def test_a_reader_sees_one_blob_or_the_other(container):
    import threading
    blob = container.get_blob_client("a")
    states = [noise(3 * MIB, n) for n in range(2)]
    digests = {hashlib.md5(state).digest() for state in states}
    blob.upload_blob(states[0])
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            if n % 2:
                blob.upload_blob(states[n % 2], overwrite=True)
            else:
                blob.stage_block("one", states[n % 2])
                blob.commit_block_list([BlobBlock("one")])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        whole = 0
        for _ in range(40):
            try:
                assert hashlib.md5(content(blob)).digest() in digests, "a mixture was read"
                whole += 1
            except HttpResponseError as error:
                # The connection ends where the blob was overwritten.
                assert error.error_code in (None, "ConditionNotMet"), error
        assert whole > 0
    finally:
        stop.set()
        writer.join()


def test_containers_are_deleted_with_everything(container):
    own = service().create_container("own-" + uuid.uuid4().hex[:8])
    own.upload_blob("a", b"1")
    own.get_blob_client("a").stage_block("one", b"1")
    own.get_blob_client("b").stage_block("one", b"1")
    own.delete_container()
    again = service().create_container(own.container_name)
    assert list(again.list_blobs(include=["uncommittedblobs"])) == []


def test_batches(container):
    for name in "abc":
        container.upload_blob(name, b"1")
    container.delete_blobs("a", "b")
    assert [b.name for b in container.list_blobs()] == ["c"]


def main():
    only = os.environ.get("ONLY", "")
    failed = 0
    tests = [(name, work) for name, work in globals().items() if name.startswith("test_") and only in name]
    for name, work in tests:
        container = service().create_container("t-" + uuid.uuid4().hex[:12])
        try:
            work(container)
            print("ok", name, flush=True)
        except Exception:
            failed += 1
            print("FAILED", name, flush=True)
            traceback.print_exc()
    return 1 if failed else 0


sys.exit(main())
