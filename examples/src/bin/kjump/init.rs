//! As process 1 of a kernel that saves or restores: the role on its command line, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kjump::memory::image::ImageId;
use kjump::sys::{RebootCommand, reboot};
use kjump::{
    CommandLine, Error, Restoration, Sleeper, find_image, in_place, jump_back_unseen, machine,
    take_seal,
};
use nix::mount::{MsFlags, mount};

use crate::cli::SaveFormat;
use crate::key;
use crate::report::{self, say};
use crate::role::Role;
use crate::save::How;
use crate::stopwatch::Stopwatch;
use crate::{modules, patience, restore, save};

/// How long a device may take to appear: disks are found while init already runs.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);

/// The longest pause between two looks for it.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Whether this is the init of a kernel, and not the first process of a container, which is process 1
/// too.
pub(crate) fn is_init() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    std::process::id() == 1 && name.is_some_and(|name| name.ends_with("init"))
}

/// Plays the role, and ends with the machine elsewhere or off.
pub(crate) fn run() -> ! {
    // A machine that was saved is off. One that could not be restored boots again, and may try once more.
    let mut end = RebootCommand::PowerOff;
    if let Err(error) = mount_all().and_then(|()| play()) {
        report::error(&error);
        let line = machine::command_line().unwrap_or_default();
        if Role::from_command_line(&line) == Some(Role::Restore) {
            say!("the machine was not restored; booting again");
            end = RebootCommand::Restart;
        }
    }
    report::drain();
    nix::unistd::sync();
    if let Err(error) = reboot(end) {
        report::error(&error.into());
    }
    loop {
        thread::park();
    }
}

/// Mounts what the kernel shows of itself.
fn mount_all() -> Result<()> {
    for (what, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs")] {
        mount(
            None::<&str>,
            what,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {what}"))?;
    }
    Ok(())
}

fn play() -> Result<()> {
    let line = machine::command_line()?;
    let mut stopwatch = Stopwatch::of_boot(&line);
    say!(
        "{} CPUs",
        thread::available_parallelism().map_or(1, usize::from)
    );
    patience::begin(&line);
    if modules::load_apart() {
        stopwatch.lap("modules");
    }
    let role = Role::from_command_line(&line)
        .ok_or_else(|| anyhow!("no role: {}=save|restore|back is missing", Role::KEY))?;
    match role {
        Role::Save | Role::Back => match Sleeper::find() {
            Ok(sleeper) if role == Role::Save => save_or_go_back(&sleeper, &line, &mut stopwatch),
            Ok(sleeper) => match save::jump_back(&sleeper)? {},
            Err(error) => go_back_unseen(error),
        },
        Role::Restore => {
            let id = CommandLine::value(&line, Role::ID_KEY)
                .and_then(ImageId::from_hex)
                .ok_or_else(|| anyhow!("no image: {}= is missing or wrong", Role::ID_KEY))?;
            let verify = parameter(&line, Role::VERIFY_KEY)?.unwrap_or_default();
            let again = CommandLine::value(&line, Role::FORCE_KEY) == Some("again");
            let restoration = restore::open_by_id(&find(&line, id)?, id, again)?;
            restore::restore_memory(restoration, verify, stopwatch)
        }
        Role::Resume => {
            let restoration = open_in_place(&line)?;
            let identity = restoration.identity();
            say!("image accepted: {} ({})", identity.release, identity.id);
            stopwatch.lap("check");
            let verify = parameter(&line, Role::VERIFY_KEY)?.unwrap_or_default();
            restore::restore_memory(restoration, verify, stopwatch)
        }
    }
}

/// The image in the device that the command line names, when that has appeared, for this kernel itself to
/// restore.
fn open_in_place(line: &str) -> Result<Restoration> {
    let path = image_path(line)?;
    until(|| path.exists());
    let seal = key::ask_for(&path)?;
    in_place::open(&path, seal).context("the image cannot be resumed by this kernel")
}

/// The device that the command line names.
fn image_path(line: &str) -> Result<PathBuf> {
    CommandLine::value(line, Role::IMAGE_KEY)
        .map(PathBuf::from)
        .ok_or_else(|| anyhow!("no image: {}= is missing", Role::IMAGE_KEY))
}

/// Looks again and again, more seldom each time, until something is so, or [`DEVICE_LIMIT`] is over.
fn until(mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + DEVICE_LIMIT;
    let mut pause = Duration::from_millis(1);
    while !is_so() && Instant::now() < limit {
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Saves the machine. If that fails, or panics, the machine goes on, and finds the reason where its
/// image was to be.
fn save_or_go_back(sleeper: &Sleeper, line: &str, stopwatch: &mut Stopwatch) -> Result<()> {
    let target = find(line, sleeper.identity().id);
    let keep_free = CommandLine::value(line, Role::FREE_KEY) == Some("keep");
    let save = || {
        let codec = parameter(line, Role::CODEC_KEY)?.unwrap_or_default();
        let threads = parameter(line, Role::THREADS_KEY)?;
        let seal = take_seal()?;
        let how = How::new(SaveFormat::Kjump, codec, threads, keep_free, seal.as_ref());
        match &target {
            Ok(path) => save::save(sleeper, path, how, &mut || stopwatch.after("save")),
            Err(error) => bail!("{error:#}"),
        }
    };
    // Nothing that a panic could have left half done is used after.
    let saved = catch_unwind(AssertUnwindSafe(save))
        .unwrap_or_else(|_| Err(anyhow!("the saving program panicked")));
    let Err(error) = saved else {
        stopwatch.report();
        return Ok(());
    };
    report::error(&error);
    if let Ok(path) = &target
        && let Err(error) = sleeper.record_failure(path, &format!("{error:#}"))
    {
        report::error(&error.into());
    }
    match save::jump_back(sleeper)? {}
}

/// Lets the machine go on that this kernel cannot see, because of `error`, and so cannot save.
fn go_back_unseen(error: Error) -> Result<()> {
    report::error(&error.into());
    say!("jumping back");
    report::drain();
    patience::end();
    match jump_back_unseen()? {}
}

/// What the command line says for `key`, if it says anything.
fn parameter<T: FromStr>(line: &str, key: &str) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    let Some(value) = CommandLine::value(line, key) else {
        return Ok(None);
    };
    match value.parse() {
        Ok(value) => Ok(Some(value)),
        Err(error) => bail!("{key}={value} on the kernel command line: {error}"),
    }
}

/// The device that holds the image `id`, or is to, when it has appeared. Its name may not be the one that
/// it had in the kernel before.
fn find(line: &str, id: ImageId) -> Result<PathBuf> {
    let path = image_path(line)?;
    let mut found = find_image(&path, id);
    until(|| {
        if found.is_err() {
            found = find_image(&path, id);
        }
        found.is_ok()
    });
    Ok(found?)
}
