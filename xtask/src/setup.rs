//! What a machine needs to build whydrop, to play its scenarios and to test it.
//!
//! Installed is only what is missing, and each thing is named with what it is for.

mod programs;
pub(crate) mod zig;

use std::{
    env,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Result, bail, ensure};

use crate::{
    arch::Arch,
    budget,
    cargo::{cargo, path},
    plan::{Plan, say},
    toolchain,
};
use programs::{LLVM, PACKAGES, PROGRAMS, Program};

/// Links eBPF programs; its version goes with the LLVM it is linked to.
const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    ask: &["bpf-linker", "--version"],
    options: &["--no-default-features", "--features", "llvm-22"],
    environment: &[
        ("LLVM_PREFIX", "/usr/lib/llvm-22"),
        ("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22"),
    ],
    purpose: "links the eBPF programs",
    seconds: budget::BPF_LINKER.cold,
};

/// Runs tests, each in a process of its own, several at a time and with a bound on each.
///
/// Not optimised and without its self-update, it compiles in a third of the time, and runs no
/// slower than the tests do.
const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.151",
    ask: &["cargo-nextest", "nextest", "--version"],
    options: &["--debug", "--no-default-features"],
    environment: &[("CARGO_PROFILE_DEV_DEBUG", "0")],
    purpose: "runs the tests",
    seconds: budget::NEXTEST.cold,
};

/// Checks `deny.toml`. Built as [`NEXTEST`] is, and for the same reason.
const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    ask: &["cargo-deny", "--version"],
    options: &["--debug", "--no-default-features"],
    environment: &[("CARGO_PROFILE_DEV_DEBUG", "0")],
    purpose: "checks the licences and sources of what we build on",
    seconds: budget::DENY.cold,
};

/// Calls cargo with zig as compiler and linker. Built as [`NEXTEST`] is, and for the same reason.
const ZIGBUILD: Tool = Tool {
    name: "cargo-zigbuild",
    version: "0.22.3",
    ask: &["cargo-zigbuild", "--version"],
    options: &["--debug", "--no-default-features"],
    environment: &[("CARGO_PROFILE_DEV_DEBUG", "0")],
    purpose: "builds for other platforms",
    seconds: 60,
};

/// The `go` line of the modules in `tests/kube`.
const GO: &str = "1.26.0";

/// A browser among Debian's packages takes longer.
const BROWSER_SECONDS: u64 = 30;
/// A C compiler for another processor, 40 MB.
const COMPILER_SECONDS: u64 = 20;

/// What a job is about to do, and the machine must have something for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Play scenarios: namespaces, filters, clients.
    Play,
    /// Run tests.
    Tests,
    /// Check licences and sources.
    Lint,
    /// Build and run an API server.
    Go,
    /// Make the agent's image for this machine's processor.
    Image,
    /// Run a whole node, or nodes with Calico's Felix.
    Node,
    /// Run Cilium.
    Cilium,
    /// Run a collector, and what stores what it receives.
    Store,
    /// Show the page of `whydrop report`.
    Page,
    /// Boot other kernels.
    Kernels,
    /// Fuzz.
    Fuzz,
    /// Boot one for arm64.
    Arm64,
    /// Measure.
    Bench,
    /// Build the client for other platforms, and run it as far as this machine can.
    Dist,
    /// Make a bare Debian, and build nothing here.
    Bare,
}

/// What every test together needs.
pub(crate) const ALL_TESTS: &[Need] = &[
    Need::Play,
    Need::Tests,
    Need::Lint,
    Need::Go,
    Need::Image,
    Need::Node,
    Need::Cilium,
    Need::Store,
    Need::Page,
    Need::Kernels,
];

/// Fails where this is not root, which `what` needs.
pub(crate) fn require_root(what: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "{what} needs root. Try: sudo -E env \"PATH=$PATH\" cargo xtask ..."
    );
    Ok(())
}

/// Fails where there is no Go that builds the modules in `tests/kube`.
///
/// It is not installed from here: no Debian release has one that is new enough, and which Go a
/// machine has is its owner's choice.
fn require_go() -> Result<()> {
    const WHY: &str = "the tests run a real Kubernetes, which is built from pinned Go modules";

    let output = Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        bail!(
            "missing: go {GO}, because {WHY}. Install it from https://go.dev/dl and have it in PATH"
        );
    };
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = |text: &str| -> Vec<u32> {
        text.split(['.', ' ']).map_while(|number| number.trim().parse().ok()).collect()
    };
    let found = numbers(words.trim_start_matches("go"));
    ensure!(
        found >= numbers(GO),
        "go is {}, older than {GO}: {WHY}. Install a newer one from https://go.dev/dl",
        words.trim()
    );
    Ok(())
}

/// A program that cargo installs.
struct Tool {
    name: &'static str,
    version: &'static str,
    /// Prints the version.
    ask: &'static [&'static str],
    options: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    purpose: &'static str,
    seconds: u64,
}

/// `cargo xtask setup`.
pub(crate) fn run() -> Result<ExitCode> {
    let mut plan = Plan::default();
    prepare(&mut plan, ALL_TESTS)?;
    prepare_tools(&mut plan, ALL_TESTS);
    plan.run()?;
    say("everything is there; nothing else was changed");
    Ok(ExitCode::SUCCESS)
}

/// Adds to a plan what is missing on this machine for all of these needs.
pub(crate) fn prepare(plan: &mut Plan, needs: &[Need]) -> Result<()> {
    let image = needs.contains(&Need::Image).then(Arch::of_this_machine).transpose()?;
    prepare_for(plan, needs, image.map(Arch::target).as_slice())
}

/// The same, and what building for these targets takes of the toolchain.
pub(crate) fn prepare_for(plan: &mut Plan, needs: &[Need], targets: &[&str]) -> Result<()> {
    if needs.contains(&Need::Go) {
        require_go()?;
    }
    if needs != [Need::Bare] {
        toolchain::prepare(plan, targets)?;
    }
    // Whatever builds here but the client and a bare Debian has eBPF programs in it.
    let links_programs = needs.iter().any(|need| ![Need::Dist, Need::Bare].contains(need));
    let linker = if links_programs { missing_tools(&[&BPF_LINKER]) } else { Vec::new() };
    prepare_packages(plan, needs, !linker.is_empty())?;
    add_tools(plan, linker);
    if needs.contains(&Need::Dist) {
        add_tools(plan, missing_tools(&[&ZIGBUILD]));
        zig::prepare(plan)?;
    }
    Ok(())
}

/// Adds to a plan the tools of tests and lints that are missing, which nothing else waits for.
pub(crate) fn prepare_tools(plan: &mut Plan, needs: &[Need]) {
    let wanted = [(Need::Tests, &NEXTEST), (Need::Lint, &DENY)];
    for (_, tool) in wanted.iter().filter(|(need, _)| needs.contains(need)) {
        add_tools(plan, missing_tools(&[tool]));
    }
}

/// Those of the programs that are missing, each said with what it is for.
fn missing_tools(tools: &[&'static Tool]) -> Vec<&'static Tool> {
    let tools: Vec<_> = tools.iter().copied().filter(|tool| !tool.present()).collect();
    for Tool { name, version, purpose, .. } in &tools {
        say(&format!(
            "missing: {name} {version} (from crates.io, into cargo's bin), which {purpose}"
        ));
    }
    tools
}

fn add_tools(plan: &mut Plan, tools: Vec<&'static Tool>) {
    for tool in tools {
        plan.add(format!("{} {}", tool.name, tool.version), tool.install(), tool.seconds);
    }
}

/// Adds Debian's packages to a plan, of those that are missing.
fn prepare_packages(plan: &mut Plan, needs: &[Need], compiles_linker: bool) -> Result<()> {
    let mut packages = Vec::new();
    let mut seconds = budget::PACKAGES.cold;
    for Program { name, package, purpose, need } in PROGRAMS {
        if !needs.contains(need) || found(name) {
            continue;
        }
        say(&format!("missing: {name} (Debian package {package}), which {purpose}"));
        if !packages.contains(package) {
            packages.push(*package);
        }
        seconds += if *need == Need::Page { BROWSER_SECONDS } else { 0 };
    }
    for (package, purpose, need) in PACKAGES {
        if needs.contains(need) && !installed(package) {
            say(&format!("missing: {package} (Debian package), {purpose}"));
            packages.push(package);
        }
    }
    if compiles_linker {
        let missing: Vec<_> = LLVM.iter().copied().filter(|package| !installed(package)).collect();
        if !missing.is_empty() {
            let names = missing.join(" ");
            say(&format!("missing: {names} (Debian packages), which bpf-linker is compiled with"));
        }
        packages.extend(missing);
    }
    if packages.is_empty() { Ok(()) } else { install(plan, &packages, seconds) }
}

/// Adds to a plan what is missing of a C compiler, which these Debian packages have.
pub(crate) fn prepare_compiler(plan: &mut Plan, program: &str, packages: &[&str]) -> Result<()> {
    if found(program) {
        return Ok(());
    }
    let names = packages.join(" ");
    say(&format!("missing: {program} (Debian packages {names}), which compiles what TLS has of C"));
    install(plan, packages, COMPILER_SECONDS)
}

/// Adds the installation of Debian packages.
fn install(plan: &mut Plan, packages: &[&str], seconds: u64) -> Result<()> {
    if !found("apt-get") {
        bail!(
            "this machine has no apt-get; install by other means what these Debian packages hold, \
             then try again: {}\n\
             For bpf-linker any LLVM 22 does: compile it with LLVM_SYS_221_PREFIX set to where that \
             LLVM is, and have it in PATH.",
            packages.join(" ")
        );
    }
    require_root("installing packages")?;
    let mut update = Command::new("apt-get");
    update.args(["-q", "update"]);
    plan.add("package lists", update, 10);
    // In one shell, so that a package that is not to be had is explained before it is tried.
    let mut apt = Command::new("sh");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["-ec", INSTALL, "install"]).args(packages);
    plan.add(format!("Debian packages {}", packages.join(" ")), apt, seconds);
    Ok(())
}

/// Installs its arguments; names those that apt does not know, and what to do then.
const INSTALL: &str = r#"
for package; do
    if ! apt-cache show "$package" >/dev/null 2>&1; then
        echo "apt knows no package $package."
        case $package in *-22-dev)
            echo "Debian 12 has LLVM 22 in bookworm-security: see that a file in"
            echo "/etc/apt/sources.list.d names that suite. Elsewhere apt.llvm.org has it, or compile"
            echo "bpf-linker yourself against any LLVM 22 and have it in PATH." ;;
        esac
        exit 1
    fi
done
# A machine that has just started may be updating itself.
exec apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
"#;

impl Tool {
    /// Whether the right version is there.
    fn present(&self) -> bool {
        let [program, arguments @ ..] = self.ask else { return false };
        let Ok(output) = Command::new(program).args(arguments).output() else { return false };
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        words.split_whitespace().nth(1) == Some(self.version)
    }

    fn install(&self) -> Command {
        let mut command = cargo(["install", self.name, "--locked", "--version", self.version]);
        command.args(self.options).envs(self.environment.iter().copied());
        command
    }
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]).stderr(Stdio::null());
    query.output().is_ok_and(|output| output.stdout == b"installed")
}

fn found(program: &str) -> bool {
    env::split_paths(&path()).any(|folder| folder.join(program).is_file())
}
