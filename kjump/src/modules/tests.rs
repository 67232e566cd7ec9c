use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const RELEASE: &str = "6.12.0-amd64";

/// A root with lists of modules.
fn root(lists: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("lib/modules").join(RELEASE);
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in lists {
        fs::write(folder.join(name), text).unwrap();
    }
    root
}

const DEP: &str = "\
kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz kernel/drivers/nvme/common/nvme-auth.ko.xz
kernel/drivers/nvme/host/nvme-core.ko.xz: kernel/drivers/nvme/common/nvme-auth.ko.xz
kernel/drivers/nvme/common/nvme-auth.ko.xz:
kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
kernel/alone.ko: kernel/gone.ko
/etc/passwd.ko:
../../../../secret.ko:
";

fn select(root: &Path, names: &[&str]) -> Result<Vec<String>, Error> {
    let index = Index::read_at(root, RELEASE)?;
    let needs: Vec<_> = names.iter().map(|name| Need::of(name, "sda")).collect();
    let modules = index.select(&needs)?;
    Ok(modules.into_iter().map(|module| module.name).collect())
}

#[test]
fn what_is_depended_on_comes_first_and_once() {
    let root = root(&[("modules.dep", DEP)]);
    let select = |names: &[&str]| select(root.path(), names).unwrap();
    assert_eq!(select(&["nvme"]), ["nvme_auth", "nvme_core", "nvme"]);
    assert_eq!(
        select(&["nvme-core", "xfs", "nvme"]),
        ["nvme_auth", "nvme_core", "libcrc32c", "xfs", "nvme"]
    );
    // Circles have an end.
    assert_eq!(select(&["a"]), ["b", "a"]);
    let index = Index::read_at(root.path(), RELEASE).unwrap();
    assert!(index.has("nvme_core") && index.has("crc32c-intel") && !index.has("ext4"));
    let modules = index.select(&[Need::of("nvme", "")]).unwrap();
    assert!(
        modules[1]
            .path
            .ends_with("kernel/drivers/nvme/host/nvme-core.ko.xz")
    );
}

#[test]
fn what_a_module_wishes_for_comes_before_it_if_it_is_there() {
    let root = root(&[
        ("modules.dep", DEP),
        (
            "modules.softdep",
            "# Soft dependencies\nsoftdep libcrc32c pre: crc32c none post: nvme\nsoftdep xfs post: a\n",
        ),
        (
            "modules.alias",
            "alias crc32c crc32c_generic\nalias crc32c crc32c_intel\nalias pci:v*d* nvme\nalias crc32? a\n",
        ),
    ]);
    assert_eq!(
        select(root.path(), &["xfs"]).unwrap(),
        ["crc32c_generic", "crc32c_intel", "libcrc32c", "xfs"]
    );
}

#[test]
fn lists_that_say_the_same_over_and_over_do_no_harm() {
    let wishes = "softdep xfs pre: ".to_owned() + &"crc32c ".repeat(3000);
    let providers = "alias crc32c crc32c_generic\n".repeat(3000);
    let root = root(&[
        ("modules.dep", DEP),
        ("modules.softdep", &wishes),
        ("modules.alias", &providers),
    ]);
    let index = Index::read_at(root.path(), RELEASE).unwrap();
    assert!(index.wished("xfs").len() <= 3000);
    assert_eq!(
        select(root.path(), &["xfs"]).unwrap(),
        ["crc32c_generic", "libcrc32c", "xfs"]
    );
}

#[test]
fn what_is_built_in_needs_no_file() {
    let root = root(&[
        ("modules.dep", DEP),
        (
            "modules.builtin",
            "kernel/drivers/scsi/sd_mod.ko\nkernel/drivers/ata/libata.ko\n",
        ),
    ]);
    assert_eq!(select(root.path(), &["sd_mod"]).unwrap(), [""; 0]);
    let index = Index::read_at(root.path(), RELEASE).unwrap();
    let built_in = Need {
        built_in: true,
        ..Need::of("ahci", "sda")
    };
    assert_eq!(index.select(&[built_in]).unwrap(), []);
    // The running kernel has that built in, and the other one has not.
    let built_in = Need {
        built_in: true,
        ..Need::of("xfs", "sda")
    };
    assert_eq!(index.select(&[built_in]).unwrap().len(), 2);
}

#[test]
fn a_module_that_is_missing_is_told_with_what_needs_it() {
    let root = root(&[("modules.dep", DEP)]);
    for name in ["ahci", "alone", "passwd", "secret"] {
        let error = select(root.path(), &["xfs", name]).unwrap_err().to_string();
        let missing = if name == "alone" { "gone" } else { name };
        assert!(
            error.contains(&format!("module {missing} (for sda) is not in")),
            "{error}"
        );
        assert!(error.contains("--initrd"), "{error}");
    }
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(select(nothing.path(), &[]).unwrap(), [""; 0]);
    let error = select(nothing.path(), &["nvme"]).unwrap_err().to_string();
    assert!(error.contains("has no list of modules"), "{error}");
    for release in ["", ".", "..", "../etc", "a/b", "/etc"] {
        let read = Index::read_at(root.path(), release);
        assert!(matches!(read, Err(Error::Release { .. })), "{release}");
    }
}

/// `bytes` as `program` packs them.
fn packed(program: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program[0])
        .args(&program[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} (from the package of that name): {error}", program[0]));
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn module(folder: &Path, extension: &str, bytes: &[u8]) -> Module {
    let path = folder.join(format!("some.{extension}"));
    fs::write(&path, bytes).unwrap();
    Module {
        name: "some".to_owned(),
        path,
    }
}

/// As the kernel's own build packs modules, `scripts/Makefile.modinst`.
const PACKERS: [(&str, &[&str]); 3] = [
    ("ko.gz", &["gzip", "-n", "-f"]),
    ("ko.xz", &["xz", "--check=crc32", "--lzma2=dict=1MiB", "-f"]),
    ("ko.zst", &["zstd", "-q"]),
];

#[test]
fn modules_are_unpacked_as_they_were_packed() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..300_000u32)
        .flat_map(|number| (number / 7).to_le_bytes())
        .collect();
    assert_eq!(module(folder.path(), "ko", &bytes).read().unwrap(), bytes);
    for (extension, program) in PACKERS {
        let packed = packed(program, &bytes);
        assert!(packed.len() < bytes.len() / 2);
        let read = |packed: &[u8]| module(folder.path(), extension, packed).read();
        assert!(read(&packed).unwrap() == bytes, "{extension}");
        for damaged in [&packed[..packed.len() / 2], b"", b"no such format"] {
            let error = read(damaged).unwrap_err();
            assert!(
                matches!(error, Error::Module { .. }),
                "{extension}: {error}"
            );
        }
    }
    let none = Module {
        name: "some".to_owned(),
        path: folder.path().join("none.ko"),
    };
    assert!(none.read().unwrap_err().to_string().contains("none.ko"));
}

#[test]
fn a_module_larger_than_any_is_refused() {
    // That much of nothing packs well.
    let folder = tempfile::tempdir().unwrap();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    io::copy(&mut io::repeat(0).take(MAX_MODULE + 1), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let error = module(folder.path(), "ko.zst", &bomb).unpack().unwrap_err();
    assert!(error.to_string().contains("larger"), "{error}");
}

proptest! {
    #[test]
    fn lists_of_anything_do_no_harm(lists in proptest::collection::vec("[ab./: \n-]{0,60}|softdep [a-c: pre]{0,30}", 4)) {
        let names = ["modules.dep", "modules.builtin", "modules.softdep", "modules.alias"];
        let pairs: Vec<_> = names.into_iter().zip(lists.iter().map(String::as_str)).collect();
        let root = root(&pairs);
        let index = Index::read_at(root.path(), RELEASE).unwrap();
        for name in ["a", "b", ""] {
            if let Ok(modules) = index.select(&[Need::of(name, "")]) {
                for module in modules {
                    prop_assert!(module.path.starts_with(root.path()));
                    prop_assert!(!module.path.components().any(|part| part == Component::ParentDir));
                }
            }
        }
    }

    #[test]
    fn damaged_files_do_no_harm(at in 0usize..2000, byte in any::<u8>()) {
        static PACKED: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
            let bytes: Vec<u8> = (0..1000u32).flat_map(|number| (number * number).to_le_bytes()).collect();
            let all = PACKERS.into_iter();
            all.map(|(extension, program)| (extension, packed(program, &bytes))).collect()
        });
        let folder = tempfile::tempdir().unwrap();
        for (extension, packed) in PACKED.iter() {
            let mut packed = packed.clone();
            let at = at % packed.len();
            packed[at] ^= byte;
            // It may be the same, refused, or, where the packer keeps no checksum, something else.
            let _ = module(folder.path(), extension, &packed).read();
        }
    }
}
