//! LVM2, as its own tools describe it.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_files::{ReadAt, survey};

use crate::truth::{Image, noise, run};

/// A loop device, until it is dropped.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Self {
        let output = std::process::Command::new("/usr/sbin/losetup")
            .args(["--show", "-f"])
            .arg(image)
            .output()
            .expect("losetup");
        assert!(output.status.success(), "{output:?}");
        Self(String::from_utf8(output.stdout).expect("utf-8").trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["-d", &self.0]);
    }
}

/// The volumes, as LVM describes them.
const VOLUMES: &str = r#"
logical_volumes {
  linear {
    id = "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"
    status = ["READ", "WRITE", "VISIBLE"]
    segment_count = 1
    segment1 { start_extent = 0
      extent_count = 20
      type = "striped"
      stripe_count = 1 # linear
      stripes = ["pv0", 0]
    }
  }
  rest {
    id = "cccccc-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"
    status = ["READ", "WRITE", "VISIBLE"]
    segment_count = 2
    segment1 { start_extent = 0
      extent_count = 28
      type = "striped"
      stripe_count = 1
      stripes = ["pv0", 35]
    }
    segment2 { start_extent = 28
      extent_count = 48
      type = "striped"
      stripe_count = 1
      stripes = ["pv1", 15]
    }
  }
  striped {
    id = "bbbbbb-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"
    status = ["READ", "WRITE", "VISIBLE"]
    segment_count = 1
    segment1 { start_extent = 0
      extent_count = 30
      type = "striped"
      stripe_count = 2
      stripe_size = 128
      stripes = ["pv0", 20, "pv1", 0]
    }
  }
}
"#;

#[test]
fn linear_and_striped_volumes_over_several_disks() {
    if !rustix::process::geteuid().is_root() {
        println!("not tried, as there are no loop devices");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let images: Vec<PathBuf> =
        (0..2).map(|number| folder.path().join(format!("pv{number}"))).collect();
    for image in &images {
        File::create(image).expect("an image").set_len(64 << 20).expect("a size");
    }
    let group = format!("sr{}", std::process::id());
    {
        let loops: Vec<Loop> = images.iter().map(|image| Loop::new(image)).collect();
        // Only these devices are looked at. A kernel without device mapper makes no volumes, but the tools write
        // the description of them.
        let devices = format!("{},{}", loops[0].0, loops[1].0);
        let plan = folder.path().join("plan").to_str().expect("utf-8").to_owned();
        let lvm = |arguments: &[&str]| {
            let all =
                [&["LVM_SUPPRESS_FD_WARNINGS=1"], arguments, &["--devices", &devices]].concat();
            run("env", &all);
        };
        lvm(&["pvcreate", "-y", &loops[0].0, &loops[1].0]);
        lvm(&["vgcreate", "-y", "-s", "1m", &group, &loops[0].0, &loops[1].0]);
        lvm(&["vgcfgbackup", "-f", &plan, &group]);
        let text = fs::read_to_string(&plan).expect("a plan");
        let end = text.rfind("\n}\n").expect("an end");
        let (before, after) = text.split_at(end + 1);
        fs::write(&plan, [before, VOLUMES, after].concat()).expect("a plan");
        lvm(&["vgcfgrestore", "-f", &plan, &group]);
    }
    let open = |which: &[usize]| -> Vec<Arc<dyn ReadAt>> {
        let image = |index: &usize| -> Arc<dyn ReadAt> {
            Arc::new(Image(File::open(&images[*index]).expect("open")))
        };
        which.iter().map(image).collect()
    };
    // Data begins after one MiB, and an extent is one.
    let mut bytes =
        images.iter().map(|image| fs::read(image).expect("an image")).collect::<Vec<_>>();
    let linear = noise(1, 20 << 20);
    bytes[0][1 << 20..21 << 20].copy_from_slice(&linear);
    let striped = noise(2, 30 << 20);
    for (row, stripe) in striped.chunks(64 << 10).enumerate() {
        let base = if row % 2 == 0 { 21 << 20 } else { 1 << 20 };
        let at = base + (row / 2) * (64 << 10);
        bytes[row % 2][at..at + stripe.len()].copy_from_slice(stripe);
    }
    for (image, bytes) in images.iter().zip(&bytes) {
        File::options()
            .write(true)
            .open(image)
            .expect("open")
            .write_all_at(bytes, 0)
            .expect("written");
    }
    let found = survey(&open(&[0, 1]));
    let volumes: Vec<_> = found.iter().filter(|it| it.volume.logical.is_some()).collect();
    let names: Vec<_> =
        volumes.iter().map(|it| it.volume.logical.clone().expect("a name")).collect();
    assert_eq!(names, ["linear", "rest", "striped"].map(|name| format!("{group}/{name}")));
    let content = |index: usize| {
        let mut buf = vec![0; usize::try_from(volumes[index].volume.size).expect("small")];
        volumes[index].bytes.read_at(0, &mut buf).expect("reads");
        buf
    };
    assert!(content(0) == linear, "linear");
    assert!(content(2) == striped, "striped");
    let rest = [&bytes[0][36 << 20..64 << 20], &bytes[1][16 << 20..64 << 20]].concat();
    let got = content(1);
    assert!(got == rest, "the rest");

    // One disk alone has the first volume, and says of the others what is missing.
    let alone = survey(&open(&[0]));
    let refused: Vec<_> = alone
        .iter()
        .filter(|it| it.volume.logical.is_some())
        .map(|it| {
            it.volume.refusal.as_ref().expect("nothing is on them").reason.contains("missing")
        })
        .collect();
    assert_eq!(refused, [false, true, true]);
}
