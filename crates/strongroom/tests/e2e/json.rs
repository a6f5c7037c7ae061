//! What `--output json` prints is what docs/use/json.md shows: every command is run. Those of machines are
//! in the tests of machines.

use serde_json::Value;

use crate::{documented::assert_documented, harness::Lab};

#[test]
fn every_output_has_the_documented_fields() {
    let lab = Lab::empty();
    assert_documented("vault key generate", &lab.json("vault key generate key"));
    lab.ok("vault key generate second");
    assert_documented("vault create", &lab.json("vault create"));
    lab.disk("d.img", 8, 4, 1);
    let backup = "backup --item web01 --disk system=d.img --tag reason=test";
    lab.ok(backup);
    lab.change("d.img", 0, 100, 2);
    assert_documented("backup", &lab.json(backup));
    assert_documented("recoverypoint list", &lab.json("recoverypoint list"));
    let show = "recoverypoint show --item web01 --recovery-point latest";
    assert_documented("recoverypoint show", &lab.json(show));
    let points = lab.points("web01");
    let diff = format!("recoverypoint diff --item web01 --from {}", points[0]);
    assert_documented("recoverypoint diff", &lab.json(&diff));
    let restore = "restore disks --item web01 --recovery-point latest --to out";
    assert_documented("restore disks", &lab.json(restore));
    let forget = "recoverypoint forget --keep-last 1 --dry-run";
    assert_documented("recoverypoint forget", &lab.json(forget));
    let delete = format!("recoverypoint delete --item web01 --recovery-point {} --yes", points[0]);
    assert_documented("recoverypoint delete", &lab.json(&delete));
    assert_documented("vault usage", &lab.json("vault usage --content"));
    assert_documented("vault verify", &lab.json("vault verify"));
    assert_documented("vault rebuild-index", &lab.json("vault rebuild-index"));
    assert_documented("vault reclaim", &lab.json("vault reclaim"));

    assert_documented("vault show", &lab.json("vault show"));
    assert_documented("vault key list", &lab.json("vault key list"));
    let added = lab.json("vault key add --new-key-file second");
    assert_documented("vault key add", &added);
    let slot = added["added"]["slot"].as_str().expect("text");
    let removed = lab.json(&format!("vault key remove --slot {slot} --yes"));
    assert_documented("vault key remove", &removed);
    let rotated = lab.json("vault key rotate --new-key-file second");
    assert_documented("vault key rotate", &rotated);
    let rotated = lab.json("vault key rotate --master --key-file second");
    assert_documented("vault key rotate --master", &rotated);
    assert_documented("errors", &lab.json("errors"));
    let shown = lab.json("errors show BCMV2VMNotFound");
    assert_eq!(shown["code"], "vm.not_found");
    assert_documented("errors show", &shown);
    lab.fails("errors show nonsense", 3, "code.not_found");
    let run = lab.run("recoverypoint list --output json");
    let error: Value = serde_json::from_str(&run.stderr).expect("JSON");
    assert_documented("Errors", &error);
}
