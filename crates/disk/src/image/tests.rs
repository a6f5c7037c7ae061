use proptest::prelude::*;

use super::{bytes::Found, qcow2, vhd, vhdx, vmdk};

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A version 3 image of 1 MiB with 64 KiB clusters.
fn qcow2_image() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 16];
    put(&mut bytes, 0, b"QFI\xfb\0\0\0\x03");
    put(&mut bytes, 20, &16_u32.to_be_bytes());
    put(&mut bytes, 24, &(1_u64 << 20).to_be_bytes());
    put(&mut bytes, 36, &1_u32.to_be_bytes());
    put(&mut bytes, 40, &(3_u64 << 16).to_be_bytes());
    put(&mut bytes, 48, &(1_u64 << 16).to_be_bytes());
    put(&mut bytes, 56, &1_u32.to_be_bytes());
    put(&mut bytes, 96, &4_u32.to_be_bytes());
    put(&mut bytes, 100, &104_u32.to_be_bytes());
    bytes
}

fn with(at: usize, value: &[u8]) -> Result<Found, String> {
    let mut bytes = qcow2_image();
    put(&mut bytes, at, value);
    qcow2::inspect(&bytes.as_slice())
}

fn be64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn a_qcow2_header_and_its_references() {
    let found = with(0, b"Q").expect("right");
    assert_eq!(found, Found { size: Some(1 << 20), ..Found::default() });
    assert!(with(35, &[2]).expect("right").is_encrypted);

    let mut bytes = qcow2_image();
    put(&mut bytes, 104, &[&0xe279_2aca_u32.to_be_bytes()[..], &[0, 0, 0, 3], b"raw"].concat());
    put(&mut bytes, 120, &[b"DATA".as_slice(), &[0, 0, 0, 5], b"d.raw"].concat());
    put(&mut bytes, 8, &512_u64.to_be_bytes());
    put(&mut bytes, 16, &11_u32.to_be_bytes());
    put(&mut bytes, 512, b"/etc/passwd");
    put(&mut bytes, 72, &4_u64.to_be_bytes());
    let found = qcow2::inspect(&bytes.as_slice()).expect("right");
    let backing = found.backing.expect("named");
    assert_eq!((backing.name.as_str(), backing.format.as_deref()), ("/etc/passwd", Some("raw")));
    assert_eq!(found.data_file.expect("named").name, "d.raw");
}

#[test]
fn hostile_qcow2_headers() {
    let cases: [(&str, usize, &[u8]); 16] = [
        ("magic", 0, b"X"),
        ("version", 7, &[9]),
        ("tiny clusters", 20, &[0, 0, 0, 3]),
        ("huge clusters", 20, &[0, 0, 0, 63]),
        ("a size of 16 EiB", 24, &[255; 8]),
        ("more size than table", 24, &(1_u64 << 40).to_be_bytes()),
        ("a huge table", 36, &[255; 4]),
        ("a table beyond the end", 40, &(9_u64 << 16).to_be_bytes()),
        ("a table that wraps", 40, &(u64::MAX << 16).to_be_bytes()),
        ("an unaligned table", 40, &(3_u64 << 16 | 8).to_be_bytes()),
        ("counts beyond the end", 48, &(4_u64 << 16).to_be_bytes()),
        ("huge counts", 56, &[255; 4]),
        ("unknown features", 72, &[128]),
        ("a data file without a name", 79, &[4]),
        ("corruption", 79, &[2]),
        ("a long header", 100, &[255; 4]),
    ];
    for (what, at, value) in cases {
        assert!(with(at, value).is_err(), "{what}");
    }
    // Two parts of the disk with one table, which a few clusters would be read as terabytes by.
    let mut bytes = qcow2_image();
    put(&mut bytes, 36, &2_u32.to_be_bytes());
    let l1 = usize::try_from(be64_at(&bytes, 40)).expect("small");
    put(&mut bytes, l1, &[0; 16]);
    assert!(qcow2::inspect(&bytes.as_slice()).is_ok(), "two holes");
    put(&mut bytes, l1, &(3_u64 << 16 | 1 << 63).to_be_bytes());
    put(&mut bytes, l1 + 8, &(3_u64 << 16).to_be_bytes());
    assert!(qcow2::inspect(&bytes.as_slice()).is_err(), "one table for two parts");
    // The backing file's name: nowhere, beyond the first cluster, too long, empty.
    for (at, len) in [(u64::MAX, 10), (1 << 16, 10), (512, 1024), (512, 0), (65_530, 100)] {
        let mut bytes = qcow2_image();
        put(&mut bytes, 8, &u64::to_be_bytes(at));
        put(&mut bytes, 16, &u32::to_be_bytes(len));
        assert!(qcow2::inspect(&bytes.as_slice()).is_err(), "{len} at {at}");
    }
    let image = qcow2_image();
    for len in [0, 4, 71, 72, 100, 104, 1000, 1 << 16, 3 << 16] {
        assert!(qcow2::inspect(&&image[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn vhd_types() {
    let mut bytes = vec![0; 8192 + 512];
    put(&mut bytes, 8192, b"conectix");
    put(&mut bytes, 8192 + 48, &8192_u64.to_be_bytes());
    put(&mut bytes, 8192 + 60, &2_u32.to_be_bytes());
    assert_eq!(vhd::inspect(&bytes.as_slice()).expect("fixed").size, Some(8192));
    put(&mut bytes, 8192 + 48, &8193_u64.to_be_bytes());
    assert!(vhd::inspect(&bytes.as_slice()).is_err(), "cut off");
    put(&mut bytes, 8192 + 60, &4_u32.to_be_bytes());
    put(&mut bytes, 8192 + 16, &1024_u64.to_be_bytes());
    put(&mut bytes, 1024 + 64, &[0, b'/', 0, b'x']);
    let found = vhd::inspect(&bytes.as_slice()).expect("differencing");
    assert_eq!(found.backing.expect("a parent").name, "/x");
    put(&mut bytes, 8192 + 60, &3_u32.to_be_bytes());
    assert!(vhd::inspect(&bytes.as_slice()).is_err(), "dynamic without a header");
    put(&mut bytes, 1024, b"cxsparse");
    for (entries, block) in [(u32::MAX, 1_u32 << 21), (1, 0), (1, 3), (0, 1 << 21), (1, 1 << 30)] {
        put(&mut bytes, 1024 + 28, &entries.to_be_bytes());
        put(&mut bytes, 1024 + 32, &block.to_be_bytes());
        assert!(vhd::inspect(&bytes.as_slice()).is_err(), "{entries} of {block}");
    }
}

#[test]
fn vmdk_descriptors() {
    let inspect = |text: &str| vmdk::inspect(&text.as_bytes());
    let head = "# Disk DescriptorFile\nversion=1\n";
    let found = inspect(&format!("{head}RW 8 FLAT \"/etc/passwd\" 0\nRW 2 ZERO\n")).expect("right");
    assert_eq!((found.size, found.extents[0].name.as_str()), (Some(5120), "/etc/passwd"));
    let found = inspect(&format!("{head}parentFileNameHint=\"up.vmdk\"\nRW 8 SPARSE \"a\"\n"));
    assert_eq!(found.expect("right").backing.expect("a parent").name, "up.vmdk");
    for wrong in [
        "RW 8 FLAT \"x\" 0\n".to_owned(),
        head.to_owned(),
        format!("{head}RW x FLAT \"x\" 0\n"),
        format!("{head}RW 8 FLAT x 0\n"),
        format!("{head}RW 8 DEVICE \"x\" 0\n"),
        format!("{head}RW {} FLAT \"x\" 0\n", u64::MAX),
        format!("{head}parentFileNameHint=x\nRW 8 FLAT \"x\" 0\n"),
        format!("{head}{}", "RW 8 FLAT \"x\" 0\n".repeat(1000)),
        // QEMU would read 511 bytes of it, and open that.
        format!("{head}RW 8 FLAT \"{}\" 0\n", "x".repeat(512)),
    ] {
        assert!(inspect(&wrong).is_err(), "{wrong:.100}");
    }
    let mut sparse = vec![0; 70_000];
    put(&mut sparse, 0, b"KDMV");
    assert!(vmdk::inspect(&sparse.as_slice()).is_err(), "no capacity");
    put(&mut sparse, 12, &100_u64.to_le_bytes());
    put(&mut sparse, 512, b"# Disk DescriptorFile\nparentFileNameHint=\"../p\"\n");
    assert_eq!(
        vmdk::inspect(&sparse.as_slice()).expect("right").backing.expect("named").name,
        "../p"
    );
}

/// Heads that get a parser past its first look.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let mut vhd = vec![0; 4096];
    put(&mut vhd, 0, b"conectix");
    put(&mut vhd, 1024, b"cxsparse");
    put(&mut vhd, 22, &[4]);
    let mut vhdx = vec![0; 400 << 10];
    put(&mut vhdx, 0, b"vhdxfile");
    for at in [192 << 10, 256 << 10] {
        put(&mut vhdx, at, b"regi\0\0\0\0\x01\0\0\0");
        put(
            &mut vhdx,
            at + 16,
            b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e",
        );
        put(&mut vhdx, at + 32, &(300_u64 << 10).to_le_bytes());
    }
    put(&mut vhdx, 300 << 10, b"metadata\0\0\x02\0");
    let vmdk = b"# Disk DescriptorFile\nRW 1 FLAT \"a\" 0\n".to_vec();
    prop::sample::select(vec![qcow2_image(), vhd, vhdx, vmdk])
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        super::fuzz(&bytes);
    }

    #[test]
    fn never_panics_on_damaged_images(
        mut bytes in heads(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        for (at, value, early) in damage {
            let len = if early { bytes.len().min(256) } else { bytes.len() };
            let at = at.index(len);
            bytes[at] = value;
        }
        super::fuzz(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        super::fuzz(&bytes);
    }

    #[test]
    fn a_found_vhdx_has_a_sane_size(mut bytes in heads(), at in 0_usize..200, value in any::<[u8; 8]>()) {
        if bytes.len() > (300 << 10) + 300 {
            put(&mut bytes, (300 << 10) + at, &value);
            if let Ok(found) = vhdx::inspect(&bytes.as_slice()) {
                prop_assert!(found.size.expect("is said") <= strongroom_base::MAX_DISK_SIZE);
            }
        }
    }
}
