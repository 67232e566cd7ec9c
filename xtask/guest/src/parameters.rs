//! What the lab wants of this machine, from the kernel command line.

use anyhow::{Context, Result, bail};

use crate::content::Content;

/// The `lab.*` parameters of the kernel command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// `lab.role`: what to do.
    pub(crate) role: Role,
    /// `lab.seed`: what all content is made from.
    pub(crate) seed: u64,
    /// `lab.fill`: how much of all memory to fill with content, in percent.
    pub(crate) fill: u8,
    /// `lab.compressible`: how much of that content compresses, in percent.
    pub(crate) compressible: u8,
    /// `lab.churn`: how much of all memory to fill and to free again before each jump, in percent.
    pub(crate) churn: u8,
    /// `lab.loops`: how often to leave this kernel and come back.
    pub(crate) loops: u32,
    /// `lab.window`: memory for the other kernels, as `kjump --window` takes it, or `kernel` for what
    /// this kernel itself lies in.
    pub(crate) window: Option<String>,
    /// `lab.spoil`: name of a thing to spoil before it is verified, which then has to fail.
    pub(crate) spoil: Option<String>,
    /// `lab.expect`: words that `kjump resume` has to say where it is to refuse, and `kjump doctor` where it is
    /// not; in lower case and with commas for spaces.
    pub(crate) expect: String,
    /// `lab.append`: command line of the other kernels, with commas for spaces.
    pub(crate) append: String,
    /// `lab.keep_free`: whether free pages are saved too, as 0 or 1.
    pub(crate) keep_free: bool,
    /// `lab.codec`: what `kjump hibernate --codec` is given, if anything.
    pub(crate) codec: Option<String>,
    /// `lab.kinds`: whether there are file systems of all kinds, as 0 or 1.
    pub(crate) kinds: bool,
    /// `lab.modules`: modules that the other kernels are to load, with commas between them.
    pub(crate) modules: Vec<String>,
    /// `lab.mapped`: whether the file system is on a mapped device, as 0 or 1.
    pub(crate) mapped: bool,
    /// `lab.stacked`: whether there are disks to put together with tools, as 0 or 1.
    pub(crate) stacked: bool,
    /// `lab.secret`: what the image is encrypted with, if it is.
    pub(crate) secret: Option<Secret>,
}

/// What an image is encrypted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secret {
    /// What a file holds.
    KeyFile,
    /// What the lab types at the console.
    Passphrase,
    /// What the kernel keeps.
    Keyring,
}

impl Secret {
    /// Every kind and its name on the command line.
    const NAMES: [(&str, Self); 3] = [
        ("key-file", Self::KeyFile),
        ("passphrase", Self::Passphrase),
        ("keyring", Self::Keyring),
    ];
}

/// What this machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A, which jumps to B, and B jumps right back.
    Bounce,
    /// A, which is saved and resumed.
    Hibernate,
    /// The same, after it told the command line of a kernel that resumes it by itself.
    HibernateInPlace,
    /// C, which resumes A.
    Resume,
    /// Ask `kjump doctor` whether this machine can hibernate, and expect a yes.
    DoctorYes,
    /// The same on a kernel that was built without `CONFIG_KEXEC_JUMP`.
    DoctorNo,
    /// Ask for what must be refused.
    Refusals,
    /// Ask without the rights to.
    NotRoot,
    /// A, whose B finds no device to save to: it must come back, and all be well.
    SaveFails,
    /// Hold content and verify it, with nothing happening between; then spoil each thing and see that
    /// it is noticed.
    SelfCheck,
    /// C, which must not resume A, and has to say why.
    Refused,
    /// C, which must not resume A after A's file system was used.
    Stale,
    /// C, which uses one of A's file systems after the other.
    StaleKinds,
    /// C, which sets A's mapped device up and uses the file system on it.
    StaleMapped,
    /// C, which puts A's disks together and uses one file system on them after the other.
    StaleStacked,
    /// C, which must not resume A from forged images, nor must D.
    Forged,
    /// C, which resumes A although that failed too often.
    ResumeAgain,
    /// C after a power cut, which resumes A, or boots normally if there is nothing to resume.
    Recover,
    /// A, whose image does not fit, and then does.
    SaveFull,
    /// A, whose image cannot be written, and then can.
    SaveIoError,
    /// A, whose disk for the image vanishes, and comes back.
    SaveVanishes,
    /// A, whose B panics.
    SavePanics,
    /// A, whose B hangs.
    SaveHangs,
    /// A, whose B stands still with its kernel.
    SaveStuck,
    /// A, which is saved and resumed by `kjump`, and held up by nothing else meanwhile.
    BenchKjump,
    /// The same, after it told the command line of a kernel that resumes it by itself.
    BenchKjumpInPlace,
    /// C, which resumes such an A at once.
    BenchKjumpResume,
    /// A, which is saved and resumed by its own kernel.
    BenchSwsusp,
    /// What runs when the kernel did not resume such an A.
    BenchSwsuspResume,
}

impl Role {
    /// Every role and its name on the command line.
    const NAMES: [(&str, Self); 29] = [
        ("bounce", Self::Bounce),
        ("hibernate", Self::Hibernate),
        ("hibernate-in-place", Self::HibernateInPlace),
        ("resume", Self::Resume),
        ("doctor-yes", Self::DoctorYes),
        ("doctor-no", Self::DoctorNo),
        ("refusals", Self::Refusals),
        ("not-root", Self::NotRoot),
        ("save-fails", Self::SaveFails),
        ("self-check", Self::SelfCheck),
        ("refused", Self::Refused),
        ("stale", Self::Stale),
        ("recover", Self::Recover),
        ("forged", Self::Forged),
        ("resume-again", Self::ResumeAgain),
        ("stale-kinds", Self::StaleKinds),
        ("stale-mapped", Self::StaleMapped),
        ("stale-stacked", Self::StaleStacked),
        ("save-full", Self::SaveFull),
        ("save-io-error", Self::SaveIoError),
        ("save-vanishes", Self::SaveVanishes),
        ("save-panics", Self::SavePanics),
        ("save-hangs", Self::SaveHangs),
        ("save-stuck", Self::SaveStuck),
        ("bench-kjump", Self::BenchKjump),
        ("bench-kjump-in-place", Self::BenchKjumpInPlace),
        ("bench-kjump-resume", Self::BenchKjumpResume),
        ("bench-swsusp", Self::BenchSwsusp),
        ("bench-swsusp-resume", Self::BenchSwsuspResume),
    ];
}

impl Parameters {
    /// What memory is filled with.
    pub(crate) fn content(&self) -> Content {
        Content::new(self.seed).compressible(self.compressible)
    }

    /// Reads the parameters from a kernel command line. Those of others are left alone; one of ours
    /// that is unknown or wrong is an error.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let mut role = None;
        let mut parameters = Self {
            role: Role::SelfCheck,
            seed: 1,
            fill: 40,
            compressible: 0,
            churn: 0,
            loops: 1,
            window: None,
            spoil: None,
            expect: String::new(),
            append: String::new(),
            keep_free: false,
            codec: None,
            kinds: false,
            modules: Vec::new(),
            mapped: false,
            stacked: false,
            secret: None,
        };
        let ours = line
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("lab."))
            .filter_map(|word| word.split_once('='));
        for (key, value) in ours {
            let wrong = || format!("wrong parameter lab.{key}={value}");
            match key {
                "role" => {
                    role = Role::NAMES
                        .into_iter()
                        .find_map(|(name, role)| (name == value).then_some(role));
                    role.with_context(wrong)?;
                }
                "seed" => parameters.seed = value.parse().with_context(wrong)?,
                "fill" => parameters.fill = value.parse().with_context(wrong)?,
                "compressible" => {
                    parameters.compressible = value.parse().with_context(wrong)?;
                    if parameters.compressible > 100 {
                        bail!(wrong());
                    }
                }
                "codec" => parameters.codec = Some(value.to_owned()),
                "churn" => parameters.churn = value.parse().with_context(wrong)?,
                "loops" => parameters.loops = value.parse().with_context(wrong)?,
                "window" => parameters.window = Some(value.to_owned()),
                "spoil" => parameters.spoil = Some(value.to_owned()),
                "expect" => parameters.expect = value.replace(',', " ").to_lowercase(),
                "append" => parameters.append = value.replace(',', " "),
                "keep_free" => parameters.keep_free = switch(value).with_context(wrong)?,
                "kinds" => parameters.kinds = switch(value).with_context(wrong)?,
                "modules" => parameters.modules = value.split(',').map(str::to_owned).collect(),
                "mapped" => parameters.mapped = switch(value).with_context(wrong)?,
                "stacked" => parameters.stacked = switch(value).with_context(wrong)?,
                "secret" => {
                    parameters.secret = Secret::NAMES
                        .into_iter()
                        .find_map(|(name, secret)| (name == value).then_some(secret));
                    parameters.secret.with_context(wrong)?;
                }
                _ => bail!("unknown parameter lab.{key}"),
            }
        }
        if parameters.fill > 95 {
            bail!("lab.fill={} leaves no memory to work with", parameters.fill);
        }
        if parameters.churn > 90_u8.saturating_sub(parameters.fill) && parameters.churn > 0 {
            bail!(
                "lab.churn={} with lab.fill={} leaves no memory to work with",
                parameters.churn,
                parameters.fill
            );
        }
        parameters.role = role.context("no lab.role on the kernel command line")?;
        Ok(parameters)
    }
}

/// A switch that is 0 or 1.
fn switch(value: &str) -> Option<bool> {
    match value {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_among_those_of_others() {
        let line = "console=ttyS0 lab.role=hibernate nokaslr lab.fill=62 lab.churn=28 lab.seed=7 lab.loops=2 \
                    lab.compressible=50 lab.codec=zstd:3 lab.window=64M@0x1000000 lab.keep_free=1 lab.secret=keyring lab.modules=xfs,b lab.append=console=ttyS0,panic=-1\n";
        let parameters = Parameters::parse(line).unwrap();
        assert_eq!(parameters.role, Role::Hibernate);
        assert_eq!(parameters.fill, 62);
        assert_eq!(parameters.churn, 28);
        assert_eq!(parameters.compressible, 50);
        assert_eq!(parameters.codec.as_deref(), Some("zstd:3"));
        assert_eq!(parameters.seed, 7);
        assert_eq!(parameters.loops, 2);
        assert_eq!(parameters.window.as_deref(), Some("64M@0x1000000"));
        assert!(parameters.keep_free);
        assert_eq!(parameters.secret, Some(Secret::Keyring));
        assert_eq!(parameters.modules, ["xfs", "b"]);
        assert_eq!(parameters.append, "console=ttyS0 panic=-1");
    }

    #[test]
    fn wrong_parameters_are_told() {
        for line in [
            "",
            "lab.role=",
            "lab.role=sleep",
            "lab.role=bounce lab.fill=96",
            "lab.role=bounce lab.fill=300",
            "lab.role=bounce lab.compressible=101",
            "lab.role=bounce lab.fill=40 lab.churn=51",
            "lab.role=bounce lab.fill=95 lab.churn=1",
            "lab.role=bounce lab.loops=-1",
            "lab.role=bounce lab.keep_free=yes",
            "lab.role=bounce lab.fil=3",
            "lab.role=bounce lab.secret=none",
        ] {
            assert!(Parameters::parse(line).is_err(), "{line}");
        }
    }
}
