//! Debian's archives, asked by an apt that shares nothing with the machine's own but the mirror.
//!
//! The suites that the lab takes kernels from need not be those that the machine runs: a Debian 12 gets
//! the newest kernel from the backports of Debian 13. So apt works with a source list and a state of
//! its own, which also needs no root and does not care how old the machine's package lists are. What
//! it downloads, it has verified by Debian's signature.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::activity;

/// The public key of Debian's archives. The package debian-archive-keyring, without which no Debian
/// is installed, has it here.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What dpkg would know of a machine without packages: an empty file, in the archive's directory.
const NOTHING_INSTALLED: &str = "status";

/// Some suites of Debian's archives, with what they hold today.
pub(super) struct Archive {
    /// Holds apt's source list, state and cache.
    directory: PathBuf,
    suites: &'static [&'static str],
    /// What apt said if it did not get at all that the suites hold.
    unreached: Option<String>,
}

/// A package as an archive has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// Name of the package.
    pub(super) name: String,
    /// Its Debian version.
    pub(super) version: String,
    /// SHA-256 of the `.deb`, in hexadecimal digits.
    pub(super) sha256: String,
}

impl Archive {
    /// Looks up what `suites` hold today. apt keeps its files in `directory`, its output goes to `log`.
    ///
    /// # Errors
    ///
    /// If apt is not there or `directory` cannot be written. A suite that cannot be reached is an error
    /// only when a package is asked for that the others do not have.
    pub(super) fn open(
        directory: &Path,
        suites: &'static [&'static str],
        log: &Path,
    ) -> Result<Self> {
        let mut archive = Self {
            directory: directory.to_owned(),
            suites,
            unreached: None,
        };
        fs::create_dir_all(directory.join("state/lists/partial"))?;
        fs::create_dir_all(directory.join("cache/archives/partial"))?;
        fs::write(directory.join(NOTHING_INSTALLED), "")?;
        let machine =
            output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
        fs::write(archive.source_list(), source_list(&machine, suites))?;

        let what = format!("asking Debian for {}", suites.join(", "));
        let mut update = archive.command("apt-get");
        // By itself, apt takes a network that is not there for a success.
        update.args(["-o", "APT::Update::Error-Mode=any", "update"]);
        archive.unreached = activity::run(&what, &mut update, log, activity::no_state)
            .err()
            .map(|error| error.to_string());
        Ok(archive)
    }

    /// The newest version of the package `name`.
    ///
    /// # Errors
    ///
    /// If no suite has it, then with the packages that are named nearly like it; or if the suites could
    /// not be reached.
    pub(super) fn package(&self, name: &str) -> Result<Package> {
        let record = self.record(name)?;
        let field = |key| {
            field(&record, key).with_context(|| format!("apt tells no {key} of the package {name}"))
        };
        Ok(Package {
            name: name.to_owned(),
            version: field("Version")?.to_owned(),
            sha256: field("SHA256")?.to_owned(),
        })
    }

    /// The package that the metapackage `name` stands for: the first that it depends on and whose name
    /// begins with `prefix`.
    ///
    /// # Errors
    ///
    /// If no suite has one of the two packages, or if there is no such dependency.
    pub(super) fn package_behind(&self, name: &str, prefix: &str) -> Result<Package> {
        let record = self.record(name)?;
        let target = dependency(field(&record, "Depends").unwrap_or_default(), prefix)
            .with_context(|| format!("the package {name} depends on no {prefix}…"))?;
        self.package(target)
    }

    /// Downloads `package` into `directory`, and returns where it is.
    ///
    /// # Errors
    ///
    /// If apt cannot get it, or not with the hash that the archive's index tells.
    pub(super) fn download(
        &self,
        package: &Package,
        directory: &Path,
        log: &Path,
    ) -> Result<PathBuf> {
        let what = format!("downloading {} {}", package.name, package.version);
        let mut download = self.command("apt-get");
        download
            .arg("download")
            .arg(format!("{}={}", package.name, package.version))
            .current_dir(directory);
        activity::run(&what, &mut download, log, activity::no_state)?;
        fs::read_dir(directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt left no package in {}", directory.display()))
    }

    /// The packages `names` and all that they need, as for a machine that has nothing installed; in order
    /// of name.
    ///
    /// # Errors
    ///
    /// If the suites do not have all of that, or not in versions that go together, with what apt says of
    /// it; or if they could not be reached.
    pub(super) fn closure(&self, names: &[&str]) -> Result<Vec<Package>> {
        let mut resolve = self.command("apt-get");
        resolve
            .args(["-q", "--yes", "--no-install-recommends", "--print-uris"])
            .args(["-o", "Acquire::ForceHash=SHA256"])
            .arg("install")
            .args(names);
        let text = match (output(&mut resolve), &self.unreached) {
            (Ok(text), _) => text,
            (Err(_), Some(why)) => bail!(
                "cannot look for {} in {}: is there a network?\n{why}",
                names.join(", "),
                self.suites.join(" or ")
            ),
            (Err(error), None) => return Err(error),
        };
        let mut packages = downloads(&text)?;
        packages.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for name in names {
            if !packages.iter().any(|package| package.name == *name) {
                bail!("apt tells nothing of the package {name} that it was asked for");
            }
        }
        Ok(packages)
    }

    /// Downloads all of `packages` into `directory`, for `what`, where they are files that end in
    /// `.deb`.
    ///
    /// # Errors
    ///
    /// If apt cannot get one of them, or not with the hash that the archive's index tells.
    pub(super) fn download_all(
        &self,
        what: &str,
        packages: &[Package],
        directory: &Path,
        log: &Path,
    ) -> Result<()> {
        let mut download = self.command("apt-get");
        download
            .arg("download")
            .args(
                packages
                    .iter()
                    .map(|package| format!("{}={}", package.name, package.version)),
            )
            .current_dir(directory);
        let what = format!("{what}: downloading {} packages", packages.len());
        activity::run(&what, &mut download, log, activity::no_state)
    }

    /// What the archive's index tells of the package `name`, as `Key: value` lines.
    fn record(&self, name: &str) -> Result<String> {
        if let Ok(record) =
            output(
                self.command("apt-cache")
                    .args(["show", "--no-all-versions", name]),
            )
        {
            return Ok(record);
        }
        let suites = self.suites.join(" or ");
        if let Some(why) = &self.unreached {
            bail!("cannot look for the package {name} in {suites}: is there a network?\n{why}");
        }
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        let names = output(self.command("apt-cache").args(["pkgnames", stem]))?;
        let mut similar: Vec<&str> = names.lines().collect();
        similar.sort_unstable();
        bail!(
            "Debian has no package {name} in {suites}, where these are: {}. Choose another kernel, or \
             change what xtask/src/lab/kernel.rs says of this one",
            similar.join(", ")
        )
    }

    fn source_list(&self) -> PathBuf {
        self.directory.join("sources.list")
    }

    /// A program of apt's that knows of nothing but this archive.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("-q");
        for (option, value) in [
            ("Dir::Etc::sourcelist", self.source_list().as_path()),
            ("Dir::Etc::sourceparts", Path::new("/dev/null")),
            ("Dir::Etc::preferences", Path::new("/dev/null")),
            ("Dir::Etc::preferencesparts", Path::new("/dev/null")),
            ("Dir::State", &self.directory.join("state")),
            (
                "Dir::State::status",
                &self.directory.join(NOTHING_INSTALLED),
            ),
            ("Dir::Cache", &self.directory.join("cache")),
            // As root, apt would download as a user who may not write here.
            ("APT::Sandbox::User", Path::new("root")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", value.display()));
        }
        command
    }
}

/// A source list of `suites`, on the mirrors that are among `machine`, the URIs of the machine's own
/// sources, one in a line.
///
/// Only package lists are asked for, whatever else the machine's apt is set up to fetch
/// (sources.list(5), "Targets").
fn source_list(machine: &str, suites: &[&str]) -> String {
    suites
        .iter()
        .map(|suite| {
            let archive = if suite.ends_with("-security") {
                "debian-security"
            } else {
                "debian"
            };
            format!(
                "deb [target=Packages signed-by={KEYRING}] {} {suite} main\n",
                mirror(machine, archive)
            )
        })
        .collect()
}

/// The URI of `archive`, `debian` or `debian-security`: the machine's, if it has a mirror that keeps
/// the archive under its usual name, else Debian's own.
fn mirror(machine: &str, archive: &str) -> String {
    machine
        .lines()
        .map(|uri| uri.trim().trim_end_matches('/'))
        .find(|uri| {
            uri.rsplit_once('/')
                .is_some_and(|(_, name)| name == archive)
        })
        .map_or_else(
            || format!("http://deb.debian.org/{archive}"),
            ToOwned::to_owned,
        )
}

/// The value of the field `key` in a record of `Key: value` lines.
fn field<'a>(record: &'a str, key: &str) -> Option<&'a str> {
    record
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
}

/// The first package in a `Depends` field whose name begins with `prefix`.
fn dependency<'a>(depends: &'a str, prefix: &str) -> Option<&'a str> {
    depends
        .split([',', '|'])
        .filter_map(|relation| relation.split_whitespace().next())
        .find(|name| name.starts_with(prefix))
}

/// The packages that `apt-get --print-uris` tells to be downloaded: lines of a URI in quotes, the name
/// of the file, its size, and its hash.
fn downloads(text: &str) -> Result<Vec<Package>> {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .map(|line| {
            read_download(line).with_context(|| format!("apt told of a download as `{line}`"))
        })
        .collect()
}

/// The package in one such line. The file's name is `NAME_VERSION_ARCHITECTURE.deb`, with some
/// characters of the version as `%` and two hexadecimal digits.
fn read_download(line: &str) -> Option<Package> {
    let (_, rest) = line.strip_prefix('\'')?.split_once('\'')?;
    let [file, _size, hash] = rest
        .split_whitespace()
        .collect::<Vec<_>>()
        .try_into()
        .ok()?;
    let [name, version, _architecture]: [&str; 3] = file
        .strip_suffix(".deb")?
        .split('_')
        .collect::<Vec<_>>()
        .try_into()
        .ok()?;
    Some(Package {
        name: name.to_owned(),
        version: unquote(version)?,
        sha256: hash.strip_prefix("SHA256:")?.to_owned(),
    })
}

/// `text` with each `%` and two hexadecimal digits as the ASCII character that they stand for.
fn unquote(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if !byte.is_ascii() {
            return None;
        }
        plain.push(char::from(byte));
        plain.push_str(rest);
    }
    Some(plain)
}

/// What `command` prints on standard output.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("cannot start {name}: the lab takes what it needs from Debian's packages, by apt")
    })?;
    if !output.status.success() {
        bail!(
            "{name} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_mirrors_are_taken() {
        let machine = "http://packages.example/apt/\n\
                       https://ftp.de.debian.org/debian/\n\
                       http://deb.debian.org/debian/\n\
                       http://mirror.example/pub/debian-security\n";
        assert_eq!(
            mirror(machine, "debian"),
            "https://ftp.de.debian.org/debian"
        );
        assert_eq!(
            mirror(machine, "debian-security"),
            "http://mirror.example/pub/debian-security"
        );
    }

    #[test]
    fn debians_own_are_taken_where_the_machine_has_none() {
        for machine in [
            "",
            // A list of mirrors, as Debian's cloud images have it.
            "mirror+file:/etc/apt/mirrors/debian.list/\n",
            // A state of the archive, which does not have today's kernels.
            "http://snapshot.debian.org/archive/debian/20250520T000000Z/\n",
            "http://deb.example/not-debian/\n",
            "debian\n",
        ] {
            assert_eq!(
                mirror(machine, "debian"),
                "http://deb.debian.org/debian",
                "{machine}"
            );
        }
    }

    #[test]
    fn security_suites_are_in_their_own_archive() {
        let list = source_list("http://m.example/debian/\n", &["trixie-security", "sid"]);
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("] http://deb.debian.org/debian-security trixie-security main"));
        assert!(lines[1].ends_with("] http://m.example/debian sid main"));
        assert!(
            lines.iter().all(|line| line.contains("signed-by=/")),
            "{list}"
        );
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let record = "Package: linux-image-cloud-amd64\nSHA256: 6f0b\nDescription-md5: 11\n";
        assert_eq!(field(record, "SHA256"), Some("6f0b"));
        assert_eq!(field(record, "SHA"), None);
        assert_eq!(field(record, "Description"), None);
    }

    #[test]
    fn a_dependency_is_found_among_others() {
        let depends =
            "linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13-cloud-amd64 (= 7.2.13-1)";
        assert_eq!(
            dependency(depends, "linux-image-"),
            Some("linux-image-7.2.13-cloud-amd64")
        );
        assert_eq!(dependency(depends, "linux-headers-"), None);
        assert_eq!(dependency("", "linux-image-"), None);
    }

    #[test]
    fn downloads_are_read_from_apts_words() {
        let hash = "ab".repeat(32);
        let text = format!(
            "Reading package lists...\n\
             'http://m.example/debian/pool/main/m/makedumpfile/makedumpfile_1.7.8-1_amd64.deb' \
             makedumpfile_1%3a1.7.8-1_amd64.deb 184608 SHA256:{hash}\n\
             'http://m.example/debian/pool/main/t/tzdata/tzdata_2026f-1_all.deb' \
             tzdata_2026f-1_all.deb 263396 SHA256:{hash}\n"
        );
        let packages = downloads(&text).unwrap();
        let told: Vec<(&str, &str, &str)> = packages
            .iter()
            .map(|p| (&*p.name, &*p.version, &*p.sha256))
            .collect();
        assert_eq!(
            told,
            [
                ("makedumpfile", "1:1.7.8-1", &*hash),
                ("tzdata", "2026f-1", &*hash)
            ]
        );
        assert_eq!(downloads("").unwrap(), []);
    }

    #[test]
    fn downloads_that_cannot_be_read_are_named() {
        for line in [
            "'http://m.example/a_1_all.deb' a_1_all.deb 1 MD5Sum:00",
            "'http://m.example/a_1_all.deb' a_1_all.deb 1",
            "'http://m.example/a_1.deb' a_1.deb 1 SHA256:00",
            "'http://m.example/a_1_all.deb' a_1%3_all.deb 1 SHA256:00",
            "'http://m.example/a_1_all.deb' a_1%ff_all.deb 1 SHA256:00",
            "'",
        ] {
            let error = downloads(line).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_words_are_read_or_refused(text in "['a-z_%0-9é .:]{0,40}") {
            let _ = downloads(&text);
            let _ = unquote(&text);
        }
    }
}
