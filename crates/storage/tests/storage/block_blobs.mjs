// Azure's client for JavaScript against a server: what it asks of block blobs and append blobs.
//
//     block_blobs.mjs MODULES ADDRESS KEY     MODULES: the folder that has node_modules

import assert from "node:assert";
import crypto from "node:crypto";
import { createRequire } from "node:module";
import { Readable } from "node:stream";

const [, , modules, address, key] = process.argv;
const azure = createRequire(modules + "/")("@azure/storage-blob");

const credential = new azure.StorageSharedKeyCredential("acct", key);
const options = { retryOptions: { maxTries: 1 } };
const service = new azure.BlobServiceClient(`http://${address}/acct`, credential, options);
const container = service.getContainerClient("js-" + crypto.randomBytes(4).toString("hex"));
const blob = container.getBlockBlobClient("blob");
const data = crypto.randomBytes(20 * (1 << 20) + 5);
const id = (text) => Buffer.from(text).toString("base64");
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

await container.create();

await test("upload in one piece", async () => {
  const done = await blob.upload("hello", 5, { metadata: { a: "1" }, tier: "Cool" });
  assert(done.etag);
  const found = await blob.getProperties();
  assert.deepEqual([found.contentLength, found.blobType, found.accessTier], [5, "BlockBlob", "Cool"]);
  assert.equal((await blob.downloadToBuffer()).toString(), "hello");
});
await test("uploadData in blocks", async () => {
  await blob.uploadData(data, { blockSize: 6 << 20, concurrency: 3, maxSingleShotSize: 1 << 20 });
  assert((await blob.downloadToBuffer()).equals(data));
  const list = await blob.getBlockList("all");
  assert.deepEqual([list.committedBlocks.length, list.uncommittedBlocks?.length ?? 0], [4, 0]);
});
await test("uploadData in one request", async () => {
  await blob.uploadData(data);
  assert.equal((await blob.getBlockList("committed")).committedBlocks?.length ?? 0, 0);
  assert((await blob.downloadToBuffer(7, 70000)).equals(data.subarray(7, 70007)));
});
await test("uploadStream", async () => {
  const parts = [];
  for (let at = 0; at < data.length; at += 99991) parts.push(data.subarray(at, at + 99991));
  await blob.uploadStream(Readable.from(parts), 8 << 20, 4);
  const stream = (await blob.download(0)).readableStreamBody;
  assert(Buffer.concat(await all(stream)).equals(data));
});
await test("stage and commit", async () => {
  const own = container.getBlockBlobClient("staged");
  await own.stageBlock(id("one"), "1", 1);
  await own.stageBlock(id("two"), "22", 2);
  await fails("InvalidBlobOrBlock", own.stageBlock(id("three"), "3", 1));
  await fails("InvalidBlockList", own.commitBlockList([id("none")]));
  await own.commitBlockList([id("two"), id("one")], { blobHTTPHeaders: { blobContentType: "x/y" } });
  assert.equal((await own.downloadToBuffer()).toString(), "221");
  assert.equal((await own.getProperties()).contentType, "x/y");
});
await test("from a URL", async () => {
  const url = await blob.generateSasUrl({
    permissions: azure.BlobSASPermissions.parse("r"),
    expiresOn: new Date(Date.now() + 3600e3),
  });
  const own = container.getBlockBlobClient("from");
  await own.stageBlockFromURL(id("one"), url, 10, 100);
  await own.commitBlockList([id("one")]);
  assert((await own.downloadToBuffer()).equals(data.subarray(10, 110)));
  await own.syncUploadFromURL(url);
  assert((await own.downloadToBuffer()).equals(data));
  const copy = await own.beginCopyFromURL(url, { intervalInMs: 50 });
  assert.equal((await copy.pollUntilDone()).copyStatus, "success");
  const sync = await container.getBlobClient("sync").syncCopyFromURL(url);
  assert.equal(sync.copyStatus, "success");
});
await test("append", async () => {
  const log = container.getAppendBlobClient("log");
  await log.create();
  await log.appendBlock("one", 3);
  const done = await log.appendBlock("two", 3, { conditions: { appendPosition: 3, maxSize: 6 } });
  assert.deepEqual([done.blobAppendOffset, done.blobCommittedBlockCount], ["3", 2]);
  await fails("AppendPositionConditionNotMet", log.appendBlock("x", 1, { conditions: { appendPosition: 3 } }));
  await fails("MaxBlobSizeConditionNotMet", log.appendBlock("x", 1, { conditions: { maxSize: 6 } }));
  await fails("InvalidBlobType", container.getBlockBlobClient("log").stageBlock(id("one"), "1", 1));
  await fails("InvalidBlobType", container.getPageBlobClient("log").uploadPages(Buffer.alloc(512), 0, 512));
  assert.equal((await log.downloadToBuffer()).toString(), "onetwo");
});
await test("snapshot and tier", async () => {
  const { snapshot } = await blob.createSnapshot();
  await blob.upload("new", 3);
  assert((await blob.withSnapshot(snapshot).downloadToBuffer()).equals(data));
  await blob.setAccessTier("Cold");
  assert.equal((await blob.getProperties()).accessTier, "Cold");
  await fails("BlobAccessTierNotSupportedForAccountType", blob.setAccessTier("Archive"));
});
await test("list and delete", async () => {
  await container.getBlockBlobClient("waits").stageBlock(id("one"), "1", 1);
  const names = async (options) => (await all(container.listBlobsFlat(options))).map((item) => item.name);
  assert.deepEqual(await names(), ["blob", "from", "log", "staged", "sync"]);
  assert.deepEqual(await names({ includeUncommitedBlobs: true }), ["blob", "from", "log", "staged", "sync", "waits"]);
  await fails("SnapshotsPresent", blob.delete());
  await blob.delete({ deleteSnapshots: "include" });
  await container.delete();
});

process.exit(failed);
