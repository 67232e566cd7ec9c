//! Images that must not be resumed: of another machine, of one whose disks were used since, or forged.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};

use crate::disk::{self, MOUNT_POINT};
use crate::kjump::{self, KERNEL};
use crate::parameters::Parameters;
use crate::{console, key, machine};

/// Has `kjump resume` refuse the image, for a reason that has the words `expect`. The doctor has to say the
/// same.
pub(crate) fn refused(expect: &str) -> Result<()> {
    let image = disk::image_disk()?;
    for arguments in [
        vec!["resume", "--image", &image, "--kernel", KERNEL],
        vec!["doctor", "--image", &image],
        vec!["doctor", "--json", "--image", &image],
    ] {
        fails(&arguments, expect)?;
    }
    Ok(())
}

/// Has `kjump doctor` find that the image can be resumed, and say `expect`.
pub(crate) fn accepted(expect: &str) -> Result<()> {
    let image = disk::image_disk()?;
    let outcome = kjump::try_run(&["doctor", "--image", &image], 0)?;
    console::report("accepted.doctor", &outcome.output);
    ensure!(
        outcome.status == Some(0) && outcome.output.to_lowercase().contains(expect),
        "kjump doctor does not say yes and {expect:?}: {}",
        outcome.output
    );
    Ok(())
}

/// Runs `kjump` with `arguments`, which has to fail and say `expect`.
pub(crate) fn fails(arguments: &[&str], expect: &str) -> Result<()> {
    let outcome = kjump::try_run(arguments, 0)?;
    let what = arguments.join(" ");
    console::report(&format!("refused.{}", arguments[0]), &outcome.output);
    ensure!(
        outcome.status == Some(1),
        "kjump {what} ended with {:?}: {}",
        outcome.status,
        outcome.output
    );
    ensure!(
        outcome.output.to_lowercase().contains(expect),
        "kjump {what} does not say {expect:?}: {}",
        outcome.output
    );
    Ok(())
}

/// Uses A's file system, as a careless boot would, and sees that A is refused then, and not before.
pub(crate) fn stale() -> Result<()> {
    let (image, data) = (disk::image_disk()?, disk::data_disk()?);
    kjump::run(&["doctor", "--image", &image])?;
    let resume = ["resume", "--image", &image, "--kernel", KERNEL, "--dry-run"];
    kjump::run(&resume)?;

    // Another kernel than the one that saved A: its version says so.
    let mut kernel = fs::read(KERNEL)?;
    let version = 0x200 + usize::from(u16::from_le_bytes([kernel[0x20e], kernel[0x20f]]));
    kernel[version] = b'9';
    fs::write("/tmp/other", kernel)?;
    let other = [
        "resume",
        "--image",
        &image,
        "--kernel",
        "/tmp/other",
        "--dry-run",
    ];
    fails(&other, "--other-kernel")?;
    kjump::run(&[&other[..], &["--other-kernel"]].concat())?;
    fs::remove_file("/tmp/other")?;

    // Mounted, and nothing more.
    disk::mount_ext4(&data)?;
    refused("resume before anything of that machine's is mounted")?;
    umount2(MOUNT_POINT, MntFlags::empty())?;
    refused("was written to since that was saved")?;
    disk::mount_ext4(&data)?;
    fs::write(format!("{MOUNT_POINT}/by-c"), "C was here")?;
    umount2(MOUNT_POINT, MntFlags::empty())?;
    machine::write("/proc/sys/vm/drop_caches", "3")?;
    refused(&format!(
        "here on {data} and mounted at {MOUNT_POINT} in the sleeping machine"
    ))?;

    fails(&["discard", &image], "there is nobody to ask")?;
    kjump::run(&["discard", "--yes", &image])?;
    refused("the image was discarded")
}

/// Has C refuse each of the forged images, and D the last of them, in which only memory is not as it was.
pub(crate) fn forged(parameters: &Parameters) -> Result<()> {
    let disks = machine::disks()?;
    let mut options = kjump::kernel_options(parameters);
    options.extend(key::options(parameters.secret)?);
    let resume = |image| [&["resume", "--image", image], options.as_slice()].concat();
    let [index, spliced, rolled_back, memory] = disks.get(3..).context("no forged images")? else {
        bail!("there are {} disks", disks.len());
    };
    for (image, expect) in [
        (index, "tampered with: a part of the index"),
        (spliced, "tampered with: the notes"),
        (rolled_back, "was written to since that was saved"),
    ] {
        fails(&resume(image), expect)?;
    }
    console::report("ready", "for what only the restoring kernel finds");
    kjump::run(&[&resume(memory)[..], &["--verify", "full"]].concat())?;
    bail!("kjump resume returned")
}
