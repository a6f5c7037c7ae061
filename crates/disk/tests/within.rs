//! Files that are what they are taken for: links that lead out of allowed folders, files that others have
//! put where an unfinished restore would go on.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use common::{folder, open, read_all, run, text};
use strongroom_base::Coded as _;
use strongroom_disk::{
    DiskError, DiskSource, DiskSpec, DiskTarget, Existing, ImageFormat, Links, OpenOptions,
    TargetOptions, Within, make_anew, open_ours, open_source, open_target,
};

const KIB: usize = 1 << 10;

fn code<T>(of: Result<T, DiskError>) -> &'static str {
    of.map_or_else(|error| error.code().name, |_| "fine")
}

fn source(path: &Path, within: &[&Path]) -> Result<Box<dyn DiskSource>, DiskError> {
    let within = within.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let options = OpenOptions {
        allow_backing: within.clone(),
        within: Some(Within::new(within)),
        ..OpenOptions::default()
    };
    open_source(&DiskSpec::from_path(path), &options)
}

fn target(
    path: &Path,
    format: ImageFormat,
    existing: Existing,
    links: Links,
) -> Result<Box<dyn DiskTarget>, DiskError> {
    let spec = DiskSpec::File { path: path.to_owned(), format: Some(format) };
    let size = u64::try_from(64 * KIB).expect("fits");
    open_target(&spec, size, &TargetOptions { existing, links, ..TargetOptions::default() })
}

#[test]
fn no_link_leads_out_of_an_allowed_folder() {
    let place = folder();
    let at = |path: &str| place.path().join(path);
    fs::create_dir_all(at("disks/sub")).expect("a folder");
    fs::create_dir(at("outside")).expect("a folder");
    fs::write(at("outside/canary.raw"), vec![7; 64 * KIB]).expect("writes");
    run("qemu-utils", "qemu-img", &["create", "-qf", "qcow2", text(&at("outside/c.qcow2")), "1M"]);
    fs::write(at("disks/sub/own.raw"), vec![1; 64 * KIB]).expect("writes");
    symlink(at("outside/canary.raw"), at("disks/link.raw")).expect("a link");
    symlink(at("outside/c.qcow2"), at("disks/link.qcow2")).expect("a link");
    symlink("../outside", at("disks/folder")).expect("a link");
    symlink("sub/own.raw", at("disks/in.raw")).expect("a link");
    let (disks, outside) = (at("disks"), at("outside"));
    for good in ["disks/sub/own.raw", "disks/in.raw"] {
        let read = read_all(&*source(&at(good), &[&disks]).expect(good));
        assert!(read.iter().all(|byte| *byte == 1), "{good}");
    }
    for bad in [
        "disks/link.raw",
        "disks/link.qcow2",
        "disks/folder/canary.raw",
        "disks/../outside/canary.raw",
        "outside/canary.raw",
    ] {
        assert_eq!(code(source(&at(bad), &[&disks])), "place.not_allowed", "{bad}");
    }
    // What the operator has named is what they mean; so is a second folder.
    assert_eq!(code(source(&at("disks/link.raw"), &[&at("disks/link.raw")])), "fine");
    assert_eq!(code(source(&at("outside/c.qcow2"), &[&disks, &outside])), "fine");
}

#[test]
fn what_was_checked_is_what_qemu_opens() {
    let place = folder();
    let at = |path: &str| place.path().join(path);
    fs::create_dir(at("disks")).expect("a folder");
    fs::write(at("secret"), vec![7; 1 << 20]).expect("writes");
    fs::write(at("disks/base.raw"), vec![1; 1 << 20]).expect("writes");
    let (base, top) = (at("disks/base.raw"), at("disks/top.qcow2"));
    let words = ["create", "-qf", "qcow2", "-F", "raw", "-b", text(&base), text(&top)];
    run("qemu-utils", "qemu-img", &words);
    let disks = at("disks");
    // Somebody exchanges the backing file for a link, over and over.
    let (stop, swapper) = (std::sync::atomic::AtomicBool::new(false), at("disks/swap"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let kept = at("disks/kept.raw");
            fs::rename(&base, &kept).expect("moves");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::hard_link(&kept, &swapper).expect("a name");
                fs::rename(&swapper, &base).expect("moves");
                symlink(at("secret"), &swapper).expect("a link");
                fs::rename(&swapper, &base).expect("moves");
            }
        });
        for _ in 0..8 {
            match source(&top, &[&disks]) {
                Ok(opened) => {
                    let bytes = read_all(&*opened);
                    assert!(bytes.iter().all(|byte| *byte == 1), "another file was read");
                }
                Err(error) => {
                    let code = error.code().name;
                    let fine = ["disk.unsafe", "place.not_allowed", "disk.not_found"];
                    assert!(fine.contains(&code), "{error}");
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn only_what_an_earlier_run_of_ours_left_is_gone_on_with() {
    let place = folder();
    let at = |path: &str| place.path().join(path);
    fs::write(at("victim"), b"root's own").expect("writes");
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let name = at(&format!("vda.{format}.partial"));
        let ours = || target(&name, format, Existing::Ours, Links::Followed);
        let refused = |what: &str| {
            assert_eq!(code(ours()), "disk.unsafe", "{format}: {what}");
            fs::remove_file(&name).expect("removes");
        };
        drop(ours().expect("a new one"));
        drop(ours().expect("goes on"));
        fs::set_permissions(&name, fs::Permissions::from_mode(0o666)).expect("sets");
        refused("others may write to it");
        symlink(at("victim"), &name).expect("a link");
        refused("a link");
        fs::hard_link(at("victim"), &name).expect("a link");
        refused("another name");
        fs::write(&name, b"").expect("writes");
        if std::os::unix::fs::chown(&name, Some(65534), None).is_ok() {
            refused("another's");
        }
        assert_eq!(fs::read(at("victim")).expect("reads"), b"root's own");
        fs::remove_file(&name).ok();
        // The name of a new file is no different.
        let new = at(&format!("vda.{format}"));
        symlink(at("victim"), &new).expect("a link");
        let refuse = target(&new, format, Existing::Refuse, Links::Followed);
        assert_eq!(code(refuse), "disk.unsafe", "{format}");
        let linked = target(&new, format, Existing::Keep, Links::Refused);
        assert_eq!(code(linked), "place.not_allowed", "{format}");
    }
    fs::write(at("note.new"), b"").expect("writes");
    symlink(at("victim"), at("link.new")).expect("a link");
    assert!(
        open_ours(&at("note.new"), false).is_ok() && open_ours(&at("link.new"), false).is_err()
    );
    drop(make_anew(&at("link.new")).expect("a file"));
    assert_eq!(fs::read(at("victim")).expect("reads"), b"root's own");
    assert!(open(text(&at("nothing"))).is_err());
}
