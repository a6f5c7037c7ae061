ALTER TABLE "jobs" ADD COLUMN "bytes" BIGINT NOT NULL DEFAULT 0;
CREATE INDEX "jobs__host__bytes" ON "jobs" ("host", "bytes", "id");
CREATE INDEX "jobs__bytes" ON "jobs" ("bytes", "id");
