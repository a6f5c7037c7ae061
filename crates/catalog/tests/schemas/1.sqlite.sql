CREATE TABLE "jobs" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "state" TEXT NOT NULL,
  "host" TEXT,
  "started" BIGINT,
  "body" TEXT NOT NULL
);
CREATE INDEX "jobs__state__started" ON "jobs" ("state", "started", "id");
CREATE INDEX "jobs__started" ON "jobs" ("started", "id");
