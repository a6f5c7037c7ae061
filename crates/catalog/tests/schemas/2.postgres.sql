CREATE TABLE "user" (
  "id" TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  "version" BIGINT NOT NULL,
  "name" TEXT COLLATE "C" NOT NULL,
  "tenant" TEXT COLLATE "C",
  "badge" BIGINT,
  "body" TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX "user__tenant__name__unique" ON "user" ("tenant", "name");
CREATE UNIQUE INDEX "user__badge__unique" ON "user" ("badge");
CREATE INDEX "user__name" ON "user" ("name", "id");
