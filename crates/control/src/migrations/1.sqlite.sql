CREATE TABLE "vaults" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "name" TEXT NOT NULL,
  "state" TEXT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "vaults__name__unique" ON "vaults" ("name");
CREATE INDEX "vaults__name" ON "vaults" ("name", "id");

CREATE TABLE "hosts" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "name" TEXT NOT NULL,
  "state" TEXT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "hosts__name__unique" ON "hosts" ("name");
CREATE INDEX "hosts__name" ON "hosts" ("name", "id");

CREATE TABLE "machines" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "host" TEXT NOT NULL,
  "name" TEXT NOT NULL,
  "protected_by" TEXT,
  "body" TEXT NOT NULL
);
CREATE INDEX "machines__host__name" ON "machines" ("host", "name", "id");
CREATE INDEX "machines__name" ON "machines" ("name", "id");

CREATE TABLE "policies" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "vault" TEXT NOT NULL,
  "name" TEXT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "policies__vault__name__unique" ON "policies" ("vault", "name");
CREATE INDEX "policies__vault__name" ON "policies" ("vault", "name", "id");
CREATE INDEX "policies__name" ON "policies" ("name", "id");

CREATE TABLE "items" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "vault" TEXT NOT NULL,
  "name" TEXT NOT NULL,
  "host" TEXT NOT NULL,
  "source" TEXT NOT NULL,
  "policy" TEXT,
  "state" TEXT NOT NULL,
  "job" TEXT,
  "next_backup" BIGINT,
  "last_backup" BIGINT,
  "failures" BIGINT NOT NULL,
  "purge_after" BIGINT,
  "replaced" BIGINT,
  "judge_at" BIGINT NOT NULL,
  "kept" BIGINT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "items__vault__name__unique" ON "items" ("vault", "name");
CREATE UNIQUE INDEX "items__vault__source__unique" ON "items" ("vault", "source");
CREATE INDEX "items__vault__name" ON "items" ("vault", "name", "id");
CREATE INDEX "items__name" ON "items" ("name", "id");
CREATE INDEX "items__host__name" ON "items" ("host", "name", "id");
CREATE INDEX "items__source" ON "items" ("source", "id");
CREATE INDEX "items__policy__name" ON "items" ("policy", "name", "id");
CREATE INDEX "items__state__name" ON "items" ("state", "name", "id");
CREATE INDEX "items__job" ON "items" ("job", "id");
CREATE INDEX "items__next_backup" ON "items" ("next_backup", "id");
CREATE INDEX "items__failures" ON "items" ("failures", "id");
CREATE INDEX "items__replaced" ON "items" ("replaced", "id");
CREATE INDEX "items__judge_at" ON "items" ("judge_at", "id");

CREATE TABLE "points" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "vault" TEXT NOT NULL,
  "item" TEXT NOT NULL,
  "state" TEXT NOT NULL,
  "kind" TEXT NOT NULL,
  "time" BIGINT NOT NULL,
  "expires" BIGINT,
  "purge_after" BIGINT,
  "snapshot" TEXT,
  "snapshot_until" BIGINT,
  "stored_bytes" BIGINT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE INDEX "points__item__time" ON "points" ("item", "time", "id");
CREATE INDEX "points__vault__time" ON "points" ("vault", "time", "id");
CREATE INDEX "points__vault__state__purge_after" ON "points" ("vault", "state", "purge_after", "id");
CREATE INDEX "points__item__snapshot" ON "points" ("item", "snapshot", "id");
CREATE INDEX "points__vault__snapshot_until" ON "points" ("vault", "snapshot_until", "id");

CREATE TABLE "given_up" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "vault" TEXT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE INDEX "given_up__vault" ON "given_up" ("vault", "id");

CREATE TABLE "jobs" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "state" TEXT NOT NULL,
  "kind" TEXT NOT NULL,
  "triggered" TEXT NOT NULL,
  "vault" TEXT,
  "item" TEXT,
  "host" TEXT,
  "created" BIGINT NOT NULL,
  "ended" BIGINT,
  "body" TEXT NOT NULL
);
CREATE INDEX "jobs__created" ON "jobs" ("created", "id");
CREATE INDEX "jobs__state__created" ON "jobs" ("state", "created", "id");
CREATE INDEX "jobs__kind__created" ON "jobs" ("kind", "created", "id");
CREATE INDEX "jobs__vault__created" ON "jobs" ("vault", "created", "id");
CREATE INDEX "jobs__item__created" ON "jobs" ("item", "created", "id");
CREATE INDEX "jobs__host__created" ON "jobs" ("host", "created", "id");
CREATE INDEX "jobs__ended" ON "jobs" ("ended", "id");

CREATE TABLE "alerts" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "state" TEXT NOT NULL,
  "severity" TEXT NOT NULL,
  "rule" TEXT NOT NULL,
  "vault" TEXT,
  "item" TEXT,
  "key" TEXT,
  "last" BIGINT NOT NULL,
  "untold" BIGINT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "alerts__key__unique" ON "alerts" ("key");
CREATE INDEX "alerts__last" ON "alerts" ("last", "id");
CREATE INDEX "alerts__state__last" ON "alerts" ("state", "last", "id");
CREATE INDEX "alerts__item__last" ON "alerts" ("item", "last", "id");
CREATE INDEX "alerts__vault__last" ON "alerts" ("vault", "last", "id");
CREATE INDEX "alerts__untold" ON "alerts" ("untold", "id");

CREATE TABLE "notices" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "channel" TEXT NOT NULL,
  "time" BIGINT NOT NULL,
  "tries" BIGINT NOT NULL,
  "next" BIGINT,
  "body" TEXT NOT NULL
);
CREATE INDEX "notices__channel__time" ON "notices" ("channel", "time", "id");
CREATE INDEX "notices__time" ON "notices" ("time", "id");

CREATE TABLE "usages" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "vault" TEXT NOT NULL,
  "measured" BIGINT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE INDEX "usages__vault__measured" ON "usages" ("vault", "measured", "id");

CREATE TABLE "users" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "name" TEXT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "users__name__unique" ON "users" ("name");
CREATE INDEX "users__name" ON "users" ("name", "id");

CREATE TABLE "tokens" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "hash" TEXT NOT NULL,
  "owner" TEXT NOT NULL,
  "expires" BIGINT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "tokens__hash__unique" ON "tokens" ("hash");
CREATE INDEX "tokens__hash" ON "tokens" ("hash", "id");
CREATE INDEX "tokens__owner__expires" ON "tokens" ("owner", "expires", "id");
CREATE INDEX "tokens__expires" ON "tokens" ("expires", "id");

CREATE TABLE "assignments" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "owner" TEXT NOT NULL,
  "role" TEXT NOT NULL,
  "scope" TEXT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "assignments__owner__role__scope__unique" ON "assignments" ("owner", "role", "scope");
CREATE INDEX "assignments__owner" ON "assignments" ("owner", "id");

CREATE TABLE "answers" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "time" BIGINT NOT NULL,
  "body" TEXT NOT NULL
);
CREATE INDEX "answers__time" ON "answers" ("time", "id");

CREATE TABLE "settings" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "body" TEXT NOT NULL
);
