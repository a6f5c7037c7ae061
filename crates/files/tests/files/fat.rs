//! FAT, filled by mtools.

use std::{
    fs,
    path::{Path, PathBuf},
};

use strongroom_files::Kind;

use crate::truth::{noise, read, run, tree};

fn make(folder: &Path, size: u64, options: &[&str]) -> PathBuf {
    let image = folder.join("image");
    fs::File::create(&image).expect("an image").set_len(size).expect("a size");
    let mut arguments = options.to_vec();
    arguments.extend(["-n", "A LABEL", image.to_str().expect("utf-8")]);
    run("mkfs.fat", &arguments);
    image
}

#[test]
fn fat_of_every_width() {
    for (size, options) in [
        (2 << 20, &["-F", "12"][..]),
        (32 << 20, &["-F", "16"]),
        (64 << 20, &["-F", "32"]),
        (300 << 20, &["-F", "32", "-S", "4096"]),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let image = make(folder.path(), size, options);
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("A Folder of some length/inner")).expect("folders");
        let files = [
            ("SHORT.TXT", 0),
            ("a longer name with spaces.text", 1),
            ("名前.txt", 70_001),
            ("A Folder of some length/inner/big", 700_000),
        ];
        for (seed, (name, size)) in (1..).zip(files) {
            fs::write(source.join(name), noise(seed, size)).expect("a file");
        }
        let at = image.to_str().expect("utf-8");
        for name in
            ["SHORT.TXT", "a longer name with spaces.text", "名前.txt", "A Folder of some length"]
        {
            let from = source.join(name);
            run(
                "env",
                &[
                    "LC_ALL=C.UTF-8",
                    "MTOOLS_SKIP_CHECK=1",
                    "mcopy",
                    "-s",
                    "-i",
                    at,
                    from.to_str().expect("utf-8"),
                    "::/",
                ],
            );
        }
        let found = read(&mut *tree(&image));
        assert_eq!(found.len(), 6, "{:?}", found.keys());
        for (name, _) in files {
            let path = format!("/{name}");
            let truth = found.get(path.as_bytes()).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(truth.attributes.kind, Kind::File);
            assert_eq!(truth.content, fs::read(source.join(name)).expect("a file"), "{path}");
            assert!(truth.attributes.modified.expect("a time").seconds > 1_500_000_000, "{path}");
        }
    }
}
