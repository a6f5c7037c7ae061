CREATE TABLE catalog_leases (
  name TEXT NOT NULL PRIMARY KEY,
  owner TEXT NOT NULL,
  epoch BIGINT NOT NULL,
  expires BIGINT NOT NULL
);
CREATE TABLE catalog_audit (
  seq INTEGER NOT NULL PRIMARY KEY,
  time BIGINT NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  prev_hash TEXT NOT NULL,
  hash TEXT NOT NULL
);
CREATE INDEX catalog_audit__actor ON catalog_audit (actor, seq);
CREATE INDEX catalog_audit__action ON catalog_audit (action, seq);
CREATE INDEX catalog_audit__target ON catalog_audit (target, seq);
CREATE INDEX catalog_audit__time ON catalog_audit (time);
CREATE TRIGGER catalog_audit__no_update BEFORE UPDATE ON catalog_audit
BEGIN SELECT RAISE(ABORT, 'the audit chain is only ever added to'); END;
CREATE TRIGGER catalog_audit__no_delete BEFORE DELETE ON catalog_audit
BEGIN SELECT RAISE(ABORT, 'the audit chain is only ever added to'); END;
