//! Builds the eBPF programs, to be embedded by `probe`.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use aya_build::{Package, Toolchain, build_ebpf};

/// What the workspace's `rust-version` pins; the child cargo is started by name, through rustup.
const TOOLCHAIN: &str = env!("CARGO_PKG_RUST_VERSION");

/// Allows `-Z build-std` on a stable compiler: the BPF target has no prebuilt `core`.
const BOOTSTRAP: &str = "RUSTC_BOOTSTRAP";

/// Has cargo take this machine's folders out of the programs, which their debug information (it is
/// loaded with them, as BTF) and their messages would name: two machines' programs would differ.
const TRIM_PATHS: [(&str, &str); 2] =
    [("CARGO_UNSTABLE_TRIM_PATHS", "true"), ("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all")];

fn main() -> aya_build::Result<()> {
    if env::var_os(BOOTSTRAP).is_none() {
        // Only the build of the programs may see the variable, and it is inherited: so the script
        // runs itself again as a child that has it. Cargo reads what the child prints as ours.
        let output = Command::new(env::current_exe()?)
            .env(BOOTSTRAP, "1")
            // What our crates are compiled by (Miri, a fuzzer's counters) is nothing for the programs.
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .envs(TRIM_PATHS)
            .envs(cargo_home().map(|home| ("CARGO_HOME", home)))
            .stderr(Stdio::inherit())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter(|line| !(output.status.success() && is_progress(line))) {
            println!("{line}");
        }
        std::process::exit(output.status.code().unwrap_or(1));
    }
    build_ebpf(
        [Package {
            name: "whydrop-ebpf",
            root_dir: "../../agent-ebpf",
            no_default_features: false,
            features: &["programs"],
        }],
        Toolchain::Custom(TOOLCHAIN),
    )
}

/// Where cargo's home really is, if it is said to be elsewhere: rustc works in the folder of the crate
/// that it compiles and asks where that is, and cargo takes out only what it knows.
fn cargo_home() -> Option<PathBuf> {
    PathBuf::from(env::var_os("CARGO_HOME")?).canonicalize().ok()
}

/// Whether the line is what the programs' cargo says of its doings, which `aya_build` makes
/// warnings of.
fn is_progress(line: &str) -> bool {
    const DOINGS: [&str; 7] =
        ["Blocking", "Compiling", "Downloaded", "Downloading", "Finished", "Locking", "Updating"];
    line.strip_prefix("cargo::warning=").is_some_and(|text| {
        text.split_whitespace().next().is_none_or(|doing| DOINGS.contains(&doing))
    })
}
