// Azure's client for JavaScript against a server: what it asks of page blobs.
//
//     page_blobs.mjs MODULES ADDRESS KEY     MODULES: the folder that has node_modules

import assert from "node:assert";
import crypto from "node:crypto";
import { createRequire } from "node:module";

const [, , modules, address, key] = process.argv;
const azure = createRequire(modules + "/")("@azure/storage-blob");

const credential = new azure.StorageSharedKeyCredential("acct", key);
const options = { retryOptions: { maxTries: 1 } };
const service = new azure.BlobServiceClient(`http://${address}/acct`, credential, options);
const name = "js-" + crypto.randomBytes(4).toString("hex");
const container = service.getContainerClient(name);
const blob = container.getPageBlobClient("disk.vhd");
const data = crypto.randomBytes(8192);
const soon = () => new Date(Date.now() + 3600e3);
let snapshot;
let failed = 0;

async function test(what, work) {
  try {
    await work();
    console.log("ok", what);
  } catch (error) {
    failed += 1;
    console.log("FAILED", what, error.statusCode, error.code, error.stack);
  }
}

async function fails(code, work) {
  const error = await work.then(() => undefined, (error) => error);
  assert.equal(error?.code ?? error?.details?.errorCode, code);
}

async function all(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

await test("create", async () => {
  await container.create({ metadata: { a: "1" } });
  await blob.create(1 << 20, { metadata: { Vm: "x" }, blobHTTPHeaders: { blobContentType: "x/y" } });
  const found = await blob.getProperties();
  assert.deepEqual([found.contentLength, found.contentType, found.metadata], [1 << 20, "x/y", { vm: "x" }]);
});
await test("write, with checksums", async () => {
  await blob.uploadPages(data, 4096, 8192);
  const md5 = crypto.createHash("md5").update(data).digest();
  await blob.uploadPages(data, 4096, 8192, { transactionalContentMD5: md5 });
  const wrong = { transactionalContentMD5: new Uint8Array(16) };
  await fails("Md5Mismatch", blob.uploadPages(data, 4096, 8192, wrong));
});
await test("read", async () => {
  assert((await blob.downloadToBuffer(4096, 8192)).equals(data));
  assert.equal((await blob.downloadToBuffer()).length, 1 << 20);
  const parts = await all((await blob.download(0)).readableStreamBody);
  assert.equal(parts.reduce((sum, part) => sum + part.length, 0), 1 << 20);
});
await test("ranges", async () => {
  const { pageRange } = await blob.getPageRanges(0, 1 << 20);
  assert.deepEqual(pageRange, [{ offset: 4096, count: 8191 }]);
  assert.equal((await all(blob.listPageRanges())).length, 1);
});
await test("differences", async () => {
  ({ snapshot } = await blob.createSnapshot());
  await blob.clearPages(4096, 512);
  await blob.uploadPages(data.subarray(0, 512), 65536, 512);
  assert.deepEqual(await all(blob.listPageRangesDiff(0, 1 << 20, snapshot)), [
    { start: 4096, end: 4607, isClear: true },
    { start: 65536, end: 66047, isClear: false },
  ]);
});
await test("leases", async () => {
  const lease = blob.getBlobLeaseClient();
  const { leaseId } = await lease.acquireLease(15);
  await fails("LeaseIdMissing", blob.uploadPages(data, 0, 8192));
  await blob.uploadPages(data, 0, 8192, { conditions: { leaseId } });
  await lease.releaseLease();
});
await test("sequence number and size", async () => {
  await blob.updateSequenceNumber("update", 7);
  await blob.updateSequenceNumber("increment");
  await blob.resize(2 << 20);
  const found = await blob.getProperties();
  assert.deepEqual([found.blobSequenceNumber, found.contentLength], [8, 2 << 20]);
});
await test("copy and promote", async () => {
  const target = container.getPageBlobClient("copy.vhd");
  const poller = await target.beginCopyFromURL(blob.url);
  assert.equal((await poller.pollUntilDone()).copyStatus, "success");
  assert((await target.downloadToBuffer()).equals(await blob.downloadToBuffer()));
  await (await blob.beginCopyFromURL(blob.withSnapshot(snapshot).url)).pollUntilDone();
  assert((await blob.downloadToBuffer(4096, 8192)).equals(data));
});
await test("incremental copy", async () => {
  const target = container.getPageBlobClient("incremental.vhd");
  await fails("IncrementalCopySourceMustBeSnapshot", target.startCopyIncremental(blob.url));
  await target.startCopyIncremental(blob.withSnapshot(snapshot).url);
  let found;
  do found = await target.getProperties();
  while (found.copyStatus === "pending");
  assert(found.copyStatus === "success" && found.isIncrementalCopy);
});
await test("pages from a URL", async () => {
  const target = container.getPageBlobClient("from-url.vhd");
  await target.create(8192);
  await target.uploadPagesFromURL(blob.url, 4096, 0, 8192);
  assert((await target.downloadToBuffer()).equals(data));
});
await test("lists", async () => {
  const found = await all(container.listBlobsFlat({ includeSnapshots: true, includeCopy: true }));
  assert.equal(found.filter((item) => item.name === "disk.vhd").length, 2);
  const pages = await all(container.listBlobsFlat().byPage({ maxPageSize: 1 }));
  assert(pages.length >= 4 && pages.every((page) => page.segment.blobItems.length === 1));
  const [own] = await all(service.listContainers({ includeMetadata: true, prefix: name }));
  assert.deepEqual(own.metadata, { a: "1" });
});
await test("signatures and policies", async () => {
  const permissions = azure.BlobSASPermissions.parse("r");
  const values = { containerName: name, blobName: "disk.vhd", permissions, expiresOn: soon() };
  const query = azure.generateBlobSASQueryParameters(values, credential).toString();
  await new azure.BlobClient(`${blob.url}?${query}`).getProperties();
  const accessPolicy = { startsOn: new Date(), expiresOn: soon(), permissions: "rl" };
  await container.setAccessPolicy(undefined, [{ id: "r", accessPolicy }]);
  const { signedIdentifiers } = await container.getAccessPolicy();
  assert.equal(signedIdentifiers[0].accessPolicy.permissions, "rl");
});
await test("batches", async () => {
  const blobs = ["b1", "b2"].map((name) => container.getPageBlobClient(name));
  for (const blob of blobs) await blob.create(512);
  const done = await service.getBlobBatchClient().deleteBlobs(blobs);
  assert.equal(done.subResponsesSucceededCount, 2);
});
await test("delete", async () => {
  await fails("SnapshotsPresent", blob.delete());
  await blob.delete({ deleteSnapshots: "include" });
  await container.delete();
});

process.exit(failed ? 1 : 0);
