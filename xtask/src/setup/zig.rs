//! zig, which compiles C and links for platforms other than this machine's: it brings what each
//! platform has of headers and libraries, and comes as one package of `PyPI`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    cache,
    plan::{Plan, say},
};

/// The newest that cargo-zigbuild is tested with.
const VERSION: &str = "0.16.0";
/// How long it takes to fetch 100 MB and unpack 400.
const SECONDS: u64 = 60;

/// Its program.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(folder()?.join("ziglang/zig"))
}

/// In no folder of Python's: it is of use to us alone.
fn folder() -> Result<PathBuf> {
    Ok(cache::folder()?.join(format!("zig-{VERSION}")))
}

/// Adds its installation to a plan where it is missing.
pub(super) fn prepare(plan: &mut Plan) -> Result<()> {
    let output = Command::new(program()?).arg("version").output();
    if output.is_ok_and(|output| output.stdout.trim_ascii() == VERSION.as_bytes()) {
        return Ok(());
    }
    let folder = folder()?;
    say(&format!(
        "missing: zig {VERSION} (from PyPI, into {}), which links for other platforms",
        folder.display()
    ));
    let mut pip = Command::new("pip3");
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    // An installation that was cut short is replaced.
    pip.args(["--no-deps", "--upgrade", "--target"]).arg(folder);
    pip.arg(format!("ziglang=={VERSION}"));
    plan.add(format!("zig {VERSION}"), pip, SECONDS);
    Ok(())
}
