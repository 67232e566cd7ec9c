//! Things that must come through a jump unharmed.

use anyhow::{Context, Result, bail};

use crate::console;

/// Something of this machine's that must be the same, or go on, after it stood still.
pub(crate) trait Witness {
    /// A word for it.
    fn name(&self) -> &'static str;

    /// Gets ready for the machine to stop. What is returned tells the state before.
    fn before(&mut self) -> Result<String>;

    /// Sees whether all is as it was left by [`before`](Self::before). What is returned tells the state
    /// after; when something is wrong, the error tells what.
    fn verify(&mut self) -> Result<String>;

    /// Does harm that [`verify`](Self::verify) has to notice, to prove that it would.
    fn spoil(&mut self) -> Result<()>;
}

/// Has every witness get ready, and reports what they say.
pub(crate) fn before(witnesses: &mut [Box<dyn Witness>]) -> Result<()> {
    for witness in witnesses {
        let name = witness.name();
        let state = witness
            .before()
            .with_context(|| format!("{name} before the jump"))?;
        console::report(&format!("before.{name}"), &state);
    }
    Ok(())
}

/// Hears every witness, reports what they say, and fails with all that is wrong.
pub(crate) fn verify(witnesses: &mut [Box<dyn Witness>]) -> Result<()> {
    let mut wrong = Vec::new();
    for witness in witnesses {
        let name = witness.name();
        match witness.verify() {
            Ok(state) => console::report(&format!("after.{name}"), &state),
            Err(error) => {
                // At once: a machine that is harmed may not get to the end.
                console::report(&format!("wrong.{name}"), &format!("{error:#}"));
                wrong.push(format!("{name}: {error:#}"));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("; "))
}
