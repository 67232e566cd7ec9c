//! Which boot this is.

use anyhow::{Result, ensure};

use crate::machine;
use crate::witness::Witness;

/// A number that the kernel draws once each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The identity of this boot.
pub(crate) struct Identity {
    boot_id: String,
}

impl Identity {
    /// Learns which boot this is.
    pub(crate) fn learn() -> Result<Self> {
        let boot_id = boot_id()?;
        Ok(Self { boot_id })
    }
}

impl Witness for Identity {
    fn name(&self) -> &'static str {
        "boot-id"
    }

    fn before(&mut self) -> Result<String> {
        self.verify()
    }

    fn verify(&mut self) -> Result<String> {
        let boot_id = boot_id()?;
        ensure!(
            boot_id == self.boot_id,
            "this is boot {boot_id}, not {}",
            self.boot_id
        );
        Ok(boot_id)
    }

    fn spoil(&mut self) -> Result<()> {
        self.boot_id = "none".to_owned();
        Ok(())
    }
}

fn boot_id() -> Result<String> {
    Ok(machine::read(BOOT_ID)?.trim_end().to_owned())
}
