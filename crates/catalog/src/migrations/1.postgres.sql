-- Locked by whoever writes, so that writers come one after the other.
CREATE TABLE catalog_writer ();
CREATE TABLE catalog_leases (
  name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  owner TEXT COLLATE "C" NOT NULL,
  epoch BIGINT NOT NULL,
  expires BIGINT NOT NULL
);
CREATE TABLE catalog_audit (
  seq BIGINT NOT NULL PRIMARY KEY,
  time BIGINT NOT NULL,
  actor TEXT COLLATE "C" NOT NULL,
  action TEXT COLLATE "C" NOT NULL,
  target TEXT COLLATE "C" NOT NULL,
  outcome TEXT COLLATE "C" NOT NULL,
  detail TEXT NOT NULL,
  prev_hash TEXT NOT NULL,
  hash TEXT NOT NULL
);
CREATE INDEX catalog_audit__actor ON catalog_audit (actor, seq);
CREATE INDEX catalog_audit__action ON catalog_audit (action, seq);
CREATE INDEX catalog_audit__target ON catalog_audit (target, seq);
CREATE INDEX catalog_audit__time ON catalog_audit (time);
CREATE FUNCTION catalog_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit chain is only ever added to'; END $$;
CREATE TRIGGER catalog_audit__only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON catalog_audit
FOR EACH STATEMENT EXECUTE FUNCTION catalog_audit_refuse();
