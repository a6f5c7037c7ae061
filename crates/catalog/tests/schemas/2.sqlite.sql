CREATE TABLE "user" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "name" TEXT NOT NULL,
  "tenant" TEXT,
  "badge" BIGINT,
  "body" TEXT NOT NULL
);
CREATE UNIQUE INDEX "user__tenant__name__unique" ON "user" ("tenant", "name");
CREATE UNIQUE INDEX "user__badge__unique" ON "user" ("badge");
CREATE INDEX "user__name" ON "user" ("name", "id");
