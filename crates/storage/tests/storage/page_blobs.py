"""Azure's client for Python against a server: every operation on page blobs, and its errors.

    page_blobs.py PORT NAME=KEY...

Each function whose name begins with test_ is one test, and gets a container of its own.
"""

import base64
import hashlib
import io
import os
import socket
import sys
import time
import traceback
import uuid
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    AccessPolicy,
    BlobClient,
    BlobServiceClient,
    BlobType,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

PORT = int(sys.argv[1])
KEYS = dict(pair.split("=", 1) for pair in sys.argv[2:])
MIB = 1 << 20

# Accounts by host need names below localhost, which the system may not resolve.
resolve = socket.getaddrinfo


def resolve_localhost(host, *rest, **named):
    return resolve("127.0.0.1" if str(host).endswith(".localhost") else host, *rest, **named)


socket.getaddrinfo = resolve_localhost


def service(account="acct", by_host=False, **named):
    url = f"http://{account}.blob.localhost:{PORT}" if by_host else f"http://127.0.0.1:{PORT}/{account}"
    return BlobServiceClient(url, credential={"account_name": account, "account_key": KEYS[account]},
                             retry_total=0, **named)


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


def ranges(blob, **named):
    return [(r.start, r.end, r.cleared) for r in blob.list_page_ranges(**named)]


def disk(container, size=MIB, name="disk.vhd", **named):
    blob = container.get_blob_client(name)
    blob.create_page_blob(size, **named)
    return blob


def test_create_and_properties(container):
    blob = disk(container, 4 * MIB, sequence_number=7, metadata={"Vm": "web01"},
                content_settings=ContentSettings(content_type="x/disk", content_language="de"))
    found = blob.get_blob_properties()
    assert found.size == 4 * MIB and found.blob_type == BlobType.PAGEBLOB
    assert found.page_blob_sequence_number == 7, found
    assert found.metadata == {"vm": "web01"}, found.metadata
    assert found.content_settings.content_type == "x/disk"
    assert found.content_settings.content_language == "de"
    assert found.lease.state == "available" and found.lease.status == "unlocked"
    assert abs((datetime.now(timezone.utc) - found.creation_time).total_seconds()) < 60
    assert blob.exists() and not container.get_blob_client("other").exists()
    fails("BlobAlreadyExists", blob.create_page_blob, 512, match_condition=MatchConditions.IfMissing)
    fails("InvalidHeaderValue", container.get_blob_client("odd").create_page_blob, 513)
    fails("InvalidHeaderValue", container.get_blob_client("big").create_page_blob, (8 << 40) + 512)
    fails("ContainerNotFound", service().get_blob_client("nowhere", "x").create_page_blob, 512)


def test_write_clear_and_read(container):
    blob = disk(container)
    data = noise(8192)
    written = blob.upload_page(data, offset=4096, length=8192)
    assert written["etag"] and written["last_modified"] and written["blob_sequence_number"] == 0
    assert blob.download_blob(offset=4096, length=8192).readall() == data
    whole = blob.download_blob().readall()
    assert whole == bytes(4096) + data + bytes(MIB - 12288)
    blob.clear_page(offset=8192, length=512)
    expected = data[:4096] + bytes(512) + data[4608:]
    assert blob.download_blob(offset=4096, length=8192).readall() == expected
    assert ranges(blob) == [(4096, 8191, False), (8704, 12287, False)], ranges(blob)
    assert ranges(blob, offset=0, length=4608) == [(4096, 4607, False)]
    paged = blob.list_page_ranges(results_per_page=1).by_page()
    assert [len(list(page)) for page in paged] == [1, 1]


def test_errors_of_writes(container):
    blob = disk(container)
    error = fails("InvalidPageRange", blob.upload_page, noise(512), offset=MIB, length=512)
    assert error.status_code == 416
    error = fails("RequestBodyTooLarge", blob.upload_page, noise(4 * MIB + 512), offset=0, length=4 * MIB + 512)
    assert error.status_code == 413
    fails("BlobNotFound", container.get_blob_client("x").upload_page, noise(512), offset=0, length=512)
    fails("InvalidRange", blob.download_blob, offset=MIB + 1, length=1)
    old = blob.get_blob_properties().etag
    blob.upload_page(noise(512), offset=0, length=512)
    fails("ConditionNotMet", blob.upload_page, noise(512), offset=0, length=512, etag=old,
          match_condition=MatchConditions.IfNotModified)
    try:
        blob.get_blob_properties(etag=blob.get_blob_properties().etag, match_condition=MatchConditions.IfModified)
        raise AssertionError("304 was expected")
    except HttpResponseError as error:
        assert error.status_code == 304


def test_largest_write(container):
    blob = disk(container, 16 * MIB)
    data = noise(4 * MIB)
    blob.upload_page(data, offset=8 * MIB, length=4 * MIB)
    assert blob.download_blob(offset=8 * MIB, length=4 * MIB).readall() == data


def test_snapshots(container):
    blob = disk(container)
    blob.upload_page(noise(512, 1), offset=0, length=512)
    first = blob.create_snapshot()
    blob.upload_page(noise(512, 2), offset=0, length=512)
    second = blob.create_snapshot(metadata={"reason": "second"})
    blob.clear_page(offset=0, length=512)
    assert second["snapshot"] > first["snapshot"]
    at = lambda taken: container.get_blob_client(blob.blob_name, snapshot=taken["snapshot"])
    assert at(first).download_blob(length=512, offset=0).readall() == noise(512, 1)
    assert at(second).download_blob(length=512, offset=0).readall() == noise(512, 2)
    assert blob.download_blob(length=512, offset=0).readall() == bytes(512)
    assert at(second).get_blob_properties().metadata == {"reason": "second"}
    assert at(first).get_blob_properties().metadata == {}
    missing = container.get_blob_client(blob.blob_name, snapshot="2001-01-01T00:00:00.0000000Z")
    fails("BlobNotFound", missing.download_blob)


def test_differences(container):
    blob = disk(container)
    for page in range(8):
        blob.upload_page(noise(512, page), offset=page * 512, length=512)
    first = blob.create_snapshot()["snapshot"]
    blob.upload_page(noise(512, 90), offset=1024, length=512)
    blob.upload_page(noise(512, 91), offset=65536, length=512)
    blob.clear_page(offset=2048, length=1024)
    blob.clear_page(offset=4096 * 8, length=4096)
    second = blob.create_snapshot()["snapshot"]
    blob.upload_page(noise(1024, 92), offset=512, length=1024)
    expected = [(1024, 1535, False), (2048, 3071, True), (65536, 66047, False)]
    snapshot = container.get_blob_client(blob.blob_name, snapshot=second)
    found = ranges(snapshot, previous_snapshot=first)
    assert found == expected, found
    found = ranges(blob, previous_snapshot=second)
    assert found == [(512, 1535, False)], found
    found = ranges(blob, previous_snapshot=first)
    assert found == [(512, 1535, False), (2048, 3071, True), (65536, 66047, False)], found
    assert ranges(snapshot, previous_snapshot=second) == []
    fails("PreviousSnapshotNotFound", ranges, blob, previous_snapshot="2001-01-01T00:00:00.0000000Z")
    older = container.get_blob_client(blob.blob_name, snapshot=first)
    fails("PreviousSnapshotCannotBeNewer", ranges, older, previous_snapshot=second)
    blob.create_page_blob(MIB)
    assert fails("BlobOverwritten", ranges, blob, previous_snapshot=first).status_code == 409
    by_url = f"http://127.0.0.1:{PORT}/acct/{container.container_name}/disk.vhd?snapshot={first}"
    fails("BlobOverwritten", blob.get_page_range_diff_for_managed_disk, by_url)


def test_managed_disk_difference(container):
    blob = disk(container)
    taken = blob.create_snapshot()["snapshot"]
    blob.upload_page(noise(512), offset=512, length=512)
    url = f"{blob.url}?snapshot={taken}"
    written, cleared = blob.get_page_range_diff_for_managed_disk(url)
    assert (written, cleared) == ([{"start": 512, "end": 1023}], []), (written, cleared)


def test_sequence_numbers(container):
    blob = disk(container, sequence_number=5)
    assert blob.set_sequence_number("update", "10")["blob_sequence_number"] == 10
    assert blob.set_sequence_number("max", "3")["blob_sequence_number"] == 10
    assert blob.set_sequence_number("increment")["blob_sequence_number"] == 11
    blob.upload_page(noise(512), offset=0, length=512, if_sequence_number_lte=11)
    blob.upload_page(noise(512), offset=0, length=512, if_sequence_number_eq=11)
    fails("SequenceNumberConditionNotMet", blob.upload_page, noise(512), offset=0, length=512,
          if_sequence_number_lt=11)
    fails("SequenceNumberConditionNotMet", blob.clear_page, offset=0, length=512, if_sequence_number_eq=4)


def test_resize(container):
    blob = disk(container, 8192)
    blob.upload_page(noise(8192), offset=0, length=8192)
    blob.resize_blob(4096)
    assert blob.get_blob_properties().size == 4096
    blob.resize_blob(16384)
    assert blob.download_blob().readall() == noise(8192)[:4096] + bytes(12288)
    assert ranges(blob) == [(0, 4095, False)]
    fails("InvalidHeaderValue", blob.resize_blob, 1000)


def test_metadata_and_headers(container):
    blob = disk(container, metadata={"a": "1"})
    before = blob.get_blob_properties()
    blob.set_blob_metadata({"b": "2"})
    blob.set_http_headers(ContentSettings(content_type="x/y", content_disposition="inline",
                                          content_md5=bytearray(hashlib.md5(b"x").digest())))
    after = blob.get_blob_properties()
    assert after.metadata == {"b": "2"} and after.etag != before.etag
    assert after.content_settings.content_type == "x/y"
    assert bytes(after.content_settings.content_md5) == hashlib.md5(b"x").digest()
    blob.set_http_headers()
    assert blob.get_blob_properties().content_settings.content_type == "application/octet-stream"


def test_checksums(container):
    blob = disk(container)
    for validate in (True, "md5", "crc64"):
        blob.upload_page(noise(4096), offset=0, length=4096, validate_content=validate)
        read = blob.download_blob(offset=0, length=4096, validate_content=validate).readall()
        assert read == noise(4096), validate
    whole = blob.download_blob(validate_content="crc64").readall()
    assert whole == noise(4096) + bytes(MIB - 4096)

    def wrong(headers):
        return blob.upload_page(noise(512), offset=0, length=512, headers=headers)

    fails("Md5Mismatch", wrong, {"Content-MD5": base64.b64encode(bytes(16)).decode()})
    fails("Crc64Mismatch", wrong, {"x-ms-content-crc64": base64.b64encode(bytes(8)).decode()})
    fails("InvalidMd5", wrong, {"Content-MD5": "nonsense"})


def test_upload_and_download(container):
    data = noise(4 * MIB, 1) + bytes(8 * MIB) + noise(3 * MIB, 2) + bytes(MIB) + noise(512, 3)
    blob = container.get_blob_client("upload.vhd")
    blob.upload_blob(data, blob_type="PageBlob", metadata={"x": "y"})
    assert blob.download_blob().readall() == data
    assert blob.download_blob(max_concurrency=4).readall() == data
    assert ranges(blob)[0] == (0, 4 * MIB - 1, False), ranges(blob)
    try:
        blob.upload_blob(data, blob_type="PageBlob")
        raise AssertionError("it exists")
    except ResourceExistsError:
        pass
    blob.upload_blob(io.BytesIO(data), blob_type="PageBlob", length=len(data), overwrite=True, max_concurrency=3)
    assert blob.download_blob().readall() == data
    assert blob.get_blob_properties().metadata == {}
    empty = container.get_blob_client("empty.vhd")
    empty.upload_blob(b"", blob_type="PageBlob")
    assert empty.download_blob().readall() == b""


def test_many_ranges_are_downloaded(container):
    """The client takes the first page list for all of it: what it lacks becomes zeros."""
    blob = disk(container, 40 * MIB)
    data = bytearray(40 * MIB)
    for at in range(33 * MIB, 40 * MIB, MIB // 4):
        piece = noise(512, at // 512)
        blob.upload_page(piece, offset=at, length=512)
        data[at:at + 512] = piece
    assert blob.download_blob().readall() == bytes(data)


def test_blob_leases(container):
    blob = disk(container)
    lease = blob.acquire_lease(lease_duration=15)
    found = blob.get_blob_properties().lease
    assert (found.state, found.status, found.duration) == ("leased", "locked", "fixed"), found
    write = lambda **named: blob.upload_page(noise(512), offset=0, length=512, **named)
    fails("LeaseIdMissing", write)
    fails("LeaseIdMismatchWithBlobOperation", write, lease=str(uuid.uuid4()))
    write(lease=lease)
    fails("LeaseAlreadyPresent", blob.acquire_lease)
    fails("LeaseIdMissing", blob.delete_blob)
    lease.renew()
    other = str(uuid.uuid4())
    lease.change(other)
    assert lease.id == other
    write(lease=lease)
    blob.download_blob(lease=lease).readall()
    blob.create_snapshot()
    lease.release()
    write()
    fails("LeaseNotPresentWithBlobOperation", write, lease=str(uuid.uuid4()))
    endless = blob.acquire_lease(lease_duration=-1)
    assert endless.break_lease(lease_break_period=0) == 0
    assert blob.get_blob_properties().lease.state == "broken"
    fails("LeaseIsBrokenAndCannotBeRenewed", endless.renew)
    write()
    fails("InvalidHeaderValue", blob.acquire_lease, lease_duration=7)


def test_container_life(container):
    client = service()
    name = "life-" + uuid.uuid4().hex[:8]
    own = client.create_container(name, metadata={"owner": "me"})
    fails("ContainerAlreadyExists", client.create_container, name)
    assert own.get_container_properties().metadata == {"owner": "me"}
    own.set_container_metadata({"owner": "you"})
    listed = list(client.list_containers(name_starts_with=name, include_metadata=True))
    assert [(c.name, c.metadata) for c in listed] == [(name, {"owner": "you"})]
    lease = own.acquire_lease(lease_duration=-1)
    fails("LeaseIdMissing", own.delete_container)
    assert own.get_container_properties().lease.state == "leased"
    own.delete_container(lease=lease)
    fails("ContainerNotFound", own.get_container_properties)
    fails("PublicAccessNotPermitted", client.create_container, name, public_access="blob")
    fails("InvalidResourceName", client.create_container, "Upper")
    own.create_container()
    own.delete_container()


def test_lists(container):
    for name in ("a/1", "a/2", "b", "ü&<>"):
        disk(container, 512, name, metadata={"name": "x"})
    container.get_blob_client("b").create_snapshot()
    assert [b.name for b in container.list_blobs()] == ["a/1", "a/2", "b", "ü&<>"]
    assert [b.name for b in container.list_blobs(name_starts_with="a/")] == ["a/1", "a/2"]
    found = [(b.name, b.snapshot is not None) for b in container.list_blobs(include=["snapshots"])]
    assert found == [("a/1", False), ("a/2", False), ("b", True), ("b", False), ("ü&<>", False)], found
    assert all(b.metadata == {"name": "x"} for b in container.list_blobs(include=["metadata"]))
    pages = [[b.name for b in page] for page in container.list_blobs(results_per_page=3).by_page()]
    assert pages == [["a/1", "a/2", "b"], ["ü&<>"]], pages
    walked = [item.name for item in container.walk_blobs(delimiter="/")]
    assert walked == ["a/", "b", "ü&<>"], walked
    one = next(iter(container.list_blobs(name_starts_with="b")))
    assert one.size == 512 and one.blob_type == BlobType.PAGEBLOB and one.lease.state == "available"


def test_delete(container):
    blob = disk(container)
    taken = [blob.create_snapshot()["snapshot"] for _ in range(3)]
    assert fails("SnapshotsPresent", blob.delete_blob).status_code == 409
    # `delete_blob(snapshot=...)` is a TypeError in 12.31.1: the client itself must be of the snapshot.
    container.get_blob_client(blob.blob_name, snapshot=taken[0]).delete_blob()
    assert len(list(container.list_blobs(include=["snapshots"]))) == 3
    blob.delete_blob(delete_snapshots="only")
    assert len(list(container.list_blobs(include=["snapshots"]))) == 1
    blob.create_snapshot()
    blob.delete_blob(delete_snapshots="include")
    assert list(container.list_blobs(include=["snapshots"])) == []
    fails("BlobNotFound", blob.delete_blob)
    fails("BlobNotFound", blob.get_blob_properties)


def test_batch(container):
    for name in ("a", "b", "c d"):
        disk(container, 512, name)
    done = list(container.delete_blobs("a", "missing", "c d", raise_on_any_failure=False))
    assert [answer.status_code for answer in done] == [202, 404, 202], done
    assert [b.name for b in container.list_blobs()] == ["b"]


def wait_for_copy(blob):
    for _ in range(200):
        copy = blob.get_blob_properties().copy
        if copy.status != "pending":
            return copy
        time.sleep(0.05)
    raise AssertionError("the copy does not end")


def test_copy(container):
    source = disk(container, 8 * MIB, sequence_number=3, metadata={"from": "here"})
    source.upload_page(noise(MIB), offset=2 * MIB, length=MIB)
    target = container.get_blob_client("copy.vhd")
    begun = target.start_copy_from_url(source.url)
    assert begun["copy_status"] in ("success", "pending") and begun["copy_id"]
    copy = wait_for_copy(target)
    assert copy.status == "success" and copy.progress == f"{8 * MIB}/{8 * MIB}", copy
    assert copy.source == source.url, copy.source
    found = target.get_blob_properties()
    assert found.metadata == {"from": "here"} and found.page_blob_sequence_number == 3
    assert ranges(target) == [(2 * MIB, 3 * MIB - 1, False)]
    assert target.download_blob().readall() == source.download_blob().readall()
    target.start_copy_from_url(source.url, metadata={"own": "1"})
    wait_for_copy(target)
    assert target.get_blob_properties().metadata == {"own": "1"}
    listed = [b for b in container.list_blobs(include=["copy"]) if b.name == "copy.vhd"]
    assert listed[0].copy.status == "success"
    fails("NoPendingCopyOperation", target.abort_copy, begun["copy_id"])
    fails("CannotVerifyCopySource", target.start_copy_from_url, container.url + "/missing")
    fails("SourceConditionNotMet", target.start_copy_from_url, source.url, source_etag='"0x1"',
          source_match_condition=MatchConditions.IfNotModified)
    fails("TargetConditionNotMet", target.start_copy_from_url, source.url, etag='"0x1"',
          match_condition=MatchConditions.IfNotModified)
    synchronous = target.start_copy_from_url(source.url, requires_sync=True)
    assert synchronous["copy_status"] == "success"


def test_promote(container):
    blob = disk(container)
    blob.upload_page(noise(512, 1), offset=0, length=512)
    taken = blob.create_snapshot()["snapshot"]
    blob.upload_page(noise(1024, 2), offset=0, length=1024)
    blob.start_copy_from_url(f"{blob.url}?snapshot={taken}")
    assert wait_for_copy(blob).status == "success"
    assert blob.download_blob(offset=0, length=1024).readall() == noise(512, 1) + bytes(512)
    assert len(list(container.list_blobs(include=["snapshots"]))) == 2


def test_incremental_copy(container):
    source = disk(container)
    source.upload_page(noise(1024, 1), offset=0, length=1024)
    first = source.create_snapshot()["snapshot"]
    target = container.get_blob_client("backup.vhd")
    fails("IncrementalCopySourceMustBeSnapshot", target.start_copy_from_url, source.url, incremental_copy=True)
    target.start_copy_from_url(f"{source.url}?snapshot={first}", incremental_copy=True)
    copy = wait_for_copy(target)
    assert copy.status == "success" and copy.incremental_copy and copy.destination_snapshot, copy
    source.clear_page(offset=0, length=512)
    source.upload_page(noise(512, 2), offset=4096, length=512)
    second = source.create_snapshot()["snapshot"]
    target.start_copy_from_url(f"{source.url}?snapshot={second}", incremental_copy=True)
    assert wait_for_copy(target).status == "success"
    made = [b.snapshot for b in container.list_blobs(name_starts_with="backup", include=["snapshots"]) if b.snapshot]
    assert len(made) == 2, made
    at = lambda taken: container.get_blob_client("backup.vhd", snapshot=taken)
    assert at(made[0]).download_blob().readall()[:1024] == noise(1024, 1)
    newest = at(made[1]).download_blob().readall()
    assert newest[:1024] == bytes(512) + noise(1024, 1)[512:] and newest[4096:4608] == noise(512, 2)
    assert ranges(at(made[1]), previous_snapshot=made[0]) == [(0, 511, True), (4096, 4607, False)]
    fails("OperationNotAllowedOnIncrementalCopyBlob", target.upload_page, noise(512), offset=0, length=512)
    fails("IncrementalCopyOfEarlierSnapshotNotAllowed", target.start_copy_from_url,
          f"{source.url}?snapshot={first}", incremental_copy=True)


def test_put_page_from_url(container):
    source = disk(container)
    source.upload_page(noise(4096), offset=512, length=4096)
    sas = generate_blob_sas("acct", container.container_name, source.blob_name, account_key=KEYS["acct"],
                            permission="r", expiry=datetime.now(timezone.utc) + timedelta(hours=1))
    target = disk(container, MIB, "target.vhd")
    target.upload_pages_from_url(f"{source.url}?{sas}", offset=0, length=4096, source_offset=512)
    assert target.download_blob(offset=0, length=4096).readall() == noise(4096)
    target.upload_pages_from_url(source.url, offset=8192, length=1024, source_offset=512)
    md5 = bytearray(hashlib.md5(noise(512)).digest())
    target.upload_pages_from_url(source.url, offset=0, length=512, source_offset=512, source_content_md5=md5)
    fails("Md5Mismatch", target.upload_pages_from_url, source.url, offset=0, length=512, source_offset=0,
          source_content_md5=md5)
    fails("SourceConditionNotMet", target.upload_pages_from_url, source.url, offset=0, length=512, source_offset=0,
          source_etag='"0x1"', source_match_condition=MatchConditions.IfNotModified)


def test_copy_to_another_account(container):
    source = disk(container)
    source.upload_page(noise(512), offset=0, length=512)
    sas = generate_blob_sas("acct", container.container_name, source.blob_name, account_key=KEYS["acct"],
                            permission="r", expiry=datetime.now(timezone.utc) + timedelta(hours=1))
    other = service("prem").create_container("to-" + uuid.uuid4().hex[:8])
    target = other.get_blob_client("copy.vhd")
    target.start_copy_from_url(f"{source.url}?{sas}")
    copy = wait_for_copy(target)
    assert copy.status == "success" and "sig=" not in copy.source, copy
    assert target.download_blob(offset=0, length=512).readall() == noise(512)
    fails("CannotVerifyCopySource", target.start_copy_from_url, source.url)
    fails("CannotVerifyCopySource", target.start_copy_from_url, f"{source.url}?{sas.replace('sig=', 'sig=AA')}")
    fails("CannotVerifyCopySource", target.upload_pages_from_url, source.url, offset=0, length=512, source_offset=0)


def soon(hours=1):
    return datetime.now(timezone.utc) + timedelta(hours=hours)


def test_service_sas(container):
    blob = disk(container)
    blob.upload_page(noise(512), offset=0, length=512)
    taken = blob.create_snapshot()["snapshot"]

    def by(permission, expiry=None, **named):
        sas = generate_blob_sas("acct", container.container_name, blob.blob_name, account_key=KEYS["acct"],
                                permission=permission, expiry=expiry or soon(), **named)
        return BlobClient.from_blob_url(f"{blob.url}?{sas}", retry_total=0, snapshot=named.get("snapshot"))

    assert by("r").download_blob(offset=0, length=512).readall() == noise(512)
    fails("AuthorizationPermissionMismatch", by("r").upload_page, noise(512), offset=0, length=512)
    by("w").upload_page(noise(512, 4), offset=0, length=512)
    fails("AuthenticationFailed", by("r", soon(-1)).get_blob_properties)
    fails("AuthenticationFailed", by("r", start=soon(1), expiry=soon(2)).get_blob_properties)
    fails("AuthorizationSourceIPMismatch", by("r", ip="10.0.0.1").get_blob_properties)
    by("r", ip="127.0.0.1").get_blob_properties()
    fails("AuthorizationProtocolMismatch", by("r", protocol="https").get_blob_properties)
    assert by("r", snapshot=taken).download_blob(offset=0, length=512).readall() == noise(512)
    typed = by("r", content_type="text/plain", content_disposition="attachment")
    assert typed.get_blob_properties().content_settings.content_type == "text/plain"
    fails("UnauthorizedBlobOverwrite", by("c").create_page_blob, 512)
    by("cw").create_page_blob(512)


def test_container_sas_and_policies(container):
    blob = disk(container)
    container.set_container_access_policy({"readers": AccessPolicy(ContainerSasPermissions(read=True, list=True),
                                                                   expiry=soon(), start=soon(-1))})
    policies = container.get_container_access_policy()
    assert policies["public_access"] is None
    assert [(p.id, p.access_policy.permission) for p in policies["signed_identifiers"]] == [("readers", "rl")]
    sas = generate_container_sas("acct", container.container_name, account_key=KEYS["acct"], policy_id="readers")
    reader = BlobServiceClient(f"http://127.0.0.1:{PORT}/acct", credential=sas, retry_total=0)
    own = reader.get_container_client(container.container_name)
    assert [b.name for b in own.list_blobs()] == [blob.blob_name]
    own.get_blob_client(blob.blob_name).get_blob_properties()
    fails("AuthorizationPermissionMismatch", own.get_blob_client(blob.blob_name).delete_blob)
    container.set_container_access_policy({})
    fails("AuthenticationFailed", own.get_blob_client(blob.blob_name).get_blob_properties)


def test_account_sas(container):
    blob = disk(container)

    def by(permission, types):
        sas = generate_account_sas("acct", KEYS["acct"], ResourceTypes.from_string(types), permission, soon())
        return BlobServiceClient(f"http://127.0.0.1:{PORT}/acct", credential=sas, retry_total=0)

    names = [c.name for c in by("l", "s").list_containers()]
    assert container.container_name in names
    fails("AuthorizationResourceTypeMismatch", by("r", "s").get_blob_client(
        container.container_name, blob.blob_name).get_blob_properties)
    by("r", "o").get_blob_client(container.container_name, blob.blob_name).get_blob_properties()
    by("w", "o").get_blob_client(container.container_name, blob.blob_name).upload_page(noise(512), 0, 512)


def test_wrong_keys(container):
    wrong = base64.b64encode(bytes(64)).decode()
    client = BlobServiceClient(f"http://127.0.0.1:{PORT}/acct", retry_total=0,
                               credential={"account_name": "acct", "account_key": wrong})
    error = fails("AuthenticationFailed", list, client.list_containers())
    assert error.status_code == 403
    anonymous = BlobServiceClient(f"http://127.0.0.1:{PORT}/acct", retry_total=0)
    assert fails("NoAuthenticationInformation", list, anonymous.list_containers()).status_code == 401


def test_by_host_and_connection_string(container):
    named = service(by_host=True).get_container_client(container.container_name)
    blob = disk(named)
    blob.upload_page(noise(512), offset=0, length=512)
    assert container.get_blob_client(blob.blob_name).download_blob(offset=0, length=512).readall() == noise(512)
    text = (f"DefaultEndpointsProtocol=http;AccountName=acct;AccountKey={KEYS['acct']};"
            f"BlobEndpoint=http://127.0.0.1:{PORT}/acct")
    client = BlobServiceClient.from_connection_string(text, retry_total=0)
    assert client.get_blob_client(container.container_name, blob.blob_name).exists()


def test_secondary(container):
    client = service("geo", by_host=True, secondary_hostname=f"geo-secondary.blob.localhost:{PORT}")
    own = client.create_container("sec-" + uuid.uuid4().hex[:8])
    blob = disk(own)
    secondary = service_of("geo-secondary", "geo").get_blob_client(own.container_name, blob.blob_name)
    assert secondary.get_blob_properties().etag == blob.get_blob_properties().etag
    fails("InsufficientAccountPermissions", secondary.upload_page, noise(512), offset=0, length=512)
    stats = client.get_service_stats()
    assert stats["geo_replication"]["status"] == "live", stats
    fails("InsufficientAccountPermissions", list, service_of("acct-secondary", "acct").list_containers())


def service_of(host, account):
    return BlobServiceClient(f"http://{host}.blob.localhost:{PORT}", retry_total=0,
                             credential={"account_name": account, "account_key": KEYS[account]})


def test_account_information(container):
    found = service().get_account_information()
    assert (found["sku_name"], found["account_kind"]) == ("Standard_LRS", "StorageV2"), found
    assert service("prem").get_account_information()["sku_name"] == "Premium_LRS"
    properties = service().get_service_properties()
    assert properties["static_website"].enabled is False
    error = fails("UnsupportedXmlNode", service().set_service_properties,
                  delete_retention_policy=retention())
    assert error.status_code == 400


def retention():
    from azure.storage.blob import RetentionPolicy
    return RetentionPolicy(enabled=True, days=3)


def test_premium_rules(container):
    own = service("prem").create_container("prem-" + uuid.uuid4().hex[:8])
    blob = disk(own)
    blob.create_snapshot()
    assert fails("SnapshotOperationRateExceeded", blob.create_snapshot).status_code == 409
    fails("BlobAccessTierNotSupportedForAccountType", blob.set_premium_page_blob_tier, "P10")


def test_parallel_writes(container):
    from concurrent.futures import ThreadPoolExecutor
    blob = disk(container, 64 * 4096)
    with ThreadPoolExecutor(16) as pool:
        write = lambda at: blob.upload_page(noise(4096, at), offset=at * 4096, length=4096)
        tags = [done["etag"] for done in pool.map(write, range(64))]
        taken = [done["snapshot"] for done in pool.map(lambda _: blob.create_snapshot(), range(20))]
    assert len(set(tags)) == 64 and len(set(taken)) == 20
    assert blob.download_blob().readall() == b"".join(noise(4096, at) for at in range(64))


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
