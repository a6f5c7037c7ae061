CREATE TABLE "jobs" (
  "id" TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "state" TEXT COLLATE "C" NOT NULL,
  "host" TEXT COLLATE "C",
  "started" BIGINT,
  "body" TEXT COLLATE "C" NOT NULL
);
CREATE INDEX "jobs__state__started" ON "jobs" ("state", "started", "id");
CREATE INDEX "jobs__started" ON "jobs" ("started", "id");
