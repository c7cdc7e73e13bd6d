//! `cargo xtask image`: the agent as a container image, without a container engine.

mod archive;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use crate::{
    arch::Arch,
    budget,
    cargo::{cargo, root, set_rustflags, target_folder},
    plan::{Plan, say},
    setup::{self, Need},
    supply::{self, Attached},
};
use archive::{Content, Image};

/// The profile of Cargo.toml that an image's program is built with.
const PROFILE: &str = "image";

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the manifests in deploy/ call it.
const NAME: &str = concat!("ghcr.io/whydrop/whydrop:", env!("CARGO_PKG_VERSION"));
/// Where the program is in the image.
const PROGRAM: &str = "whydrop";
/// Root, because the capabilities that a container is given count for nothing with another user:
/// the kernel takes them from any user but root when the program starts, and Kubernetes sets no
/// ambient ones. What root may do is what the manifest leaves it: three capabilities.
const USER: &str = "0:0";
/// What has to go with every copy of the program.
const LICENSES: &[&str] = &["LICENSE-APACHE", "LICENSE-MIT", "agent-ebpf/LICENSE-GPL-2.0"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The processor of the nodes it is for; this machine's unless given.
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Where the archive goes [default: target/images/whydrop-VERSION-ARCH.tar]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the image is called once it is imported.
    #[arg(long, value_name = "REPOSITORY:TAG", default_value = NAME)]
    name: String,
    /// Signs the image, its SBOM and its provenance: a private key for ECDSA on P-256, as PKCS#8 in
    /// PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "program_only")]
    key: Option<PathBuf>,
    /// Writes the static program alone, for an image that something else makes.
    #[arg(long)]
    program_only: bool,
}

/// Sets up, builds and writes.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let arch = arguments.arch.map_or_else(Arch::of_this_machine, Ok)?;
    // What can be wrong is found before minutes are spent.
    check_name(&arguments.name)?;
    let created = created()?;
    let output = match &arguments.output {
        Some(path) => path.clone(),
        None => default_output(arch, arguments.program_only)?,
    };
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        ensure!(folder.is_dir(), "{}: no such folder", folder.display());
    }
    if let Some(key) = &arguments.key {
        ensure!(key.is_file(), "{}: no such file", key.display());
    }

    let mut plan = Plan::default();
    setup::prepare_for(&mut plan, &[Need::Image], &[arch.target()])?;
    prepare(&mut plan, arch)?;
    if !arguments.program_only {
        supply::prepare(&mut plan);
    }
    plan.run()?;

    let profile = profile(arch)?;
    let program = profile.join(PROGRAM);
    let write = |out: &Path| {
        if arguments.program_only {
            fs::copy(&program, out)?;
            return Ok(String::new());
        }
        let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
        let image = image(arch, &arguments.name, created, bytes)?;
        let digest = image.write(BufWriter::new(File::create(out)?))?;
        let key = arguments.key.as_deref();
        supply::attach(out, &Attached { program: &program, profile: &profile, arch, key })?;
        Ok(digest)
    };
    let digest = into_place(&output, write).with_context(|| output.display().to_string())?;
    let size = fs::metadata(&output)?.len();
    say(&format!("{}: {} kB  {digest}", output.display(), size.div_ceil(1000)));
    if !arguments.program_only {
        say(&format!("{} for linux/{}; to have it on a node:", arguments.name, arch.name()));
        say(&format!("  ctr -n k8s.io images import {}", output.display()));
        say(&format!("  docker load -i {}", output.display()));
        let signed = if arguments.key.is_some() { ", signed" } else { ", not signed: --key does" };
        say(&format!("with its SBOM and provenance in the archive{signed}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds to a plan what has to be built for an image.
pub(crate) fn prepare(plan: &mut Plan, arch: Arch) -> Result<()> {
    let (compiler, packages) = arch.compiler();
    setup::prepare_compiler(plan, compiler, packages)?;
    let what = format!("{} for {}", budget::IMAGE.name, arch.name());
    plan.add(what, build(arch), budget::IMAGE.cold);
    Ok(())
}

/// Where the program is that [`prepare`] builds.
pub(crate) fn program(arch: Arch) -> Result<PathBuf> {
    Ok(profile(arch)?.join(PROGRAM))
}

/// Writes beside the file and renames, so that a half-written archive never has its name.
fn into_place<T>(file: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let done = write(&partial).and_then(|value| Ok((fs::rename(&partial, file)?, value).1));
    if done.is_err() {
        // What failed is reported; that there is nothing to remove need not be.
        let _ = fs::remove_file(&partial);
    }
    done
}

fn check_name(name: &str) -> Result<()> {
    let (repository, tag) = name.rsplit_once(':').unwrap_or((name, ""));
    ensure!(
        !repository.is_empty() && !tag.is_empty() && !tag.contains('/'),
        "--name {name}: expected REPOSITORY:TAG, such as {NAME}"
    );
    Ok(())
}

fn image(arch: Arch, name: &str, created: Timestamp, program: Vec<u8>) -> Result<Image> {
    let file = |path: &str, content| archive::File { path: path.to_owned(), content };
    let mut files = vec![file(PROGRAM, Content::Program(program))];
    files.push(file("licenses/", Content::Folder));
    for path in LICENSES {
        let text = fs::read(root().join(path)).with_context(|| (*path).to_owned())?;
        let name = path.rsplit('/').next().unwrap_or(path);
        files.push(file(&format!("licenses/{name}"), Content::Text(text)));
    }
    Ok(Image {
        name: name.to_owned(),
        architecture: arch.name(),
        files,
        entrypoint: format!("/{PROGRAM}"),
        user: USER.to_owned(),
        labels: labels(created),
        created,
    })
}

/// The one time in the archive: that of the source where who builds says it
/// (reproducible-builds.org/specs/source-date-epoch), else none.
fn created() -> Result<Timestamp> {
    let Ok(text) = env::var("SOURCE_DATE_EPOCH") else { return Ok(Timestamp::UNIX_EPOCH) };
    let time = text.parse().ok().filter(|seconds| *seconds >= 0);
    time.and_then(|seconds| Timestamp::from_second(seconds).ok())
        .with_context(|| format!("SOURCE_DATE_EPOCH={text}: expected seconds since 1970"))
}

/// The specification's own labels (github.com/opencontainers/image-spec, annotations.md).
fn labels(created: Timestamp) -> BTreeMap<String, String> {
    let repository = env!("CARGO_PKG_REPOSITORY");
    let mut labels = vec![
        ("created", created.to_string()),
        (
            "description",
            "Names the Kubernetes NetworkPolicy that dropped a connection, why, and the rule that \
             fixes it"
                .to_owned(),
        ),
        // The eBPF programs in it ask for more than the rest.
        ("licenses", "(MIT OR Apache-2.0) AND (MIT OR Apache-2.0 OR GPL-2.0-only)".to_owned()),
        ("source", repository.to_owned()),
        ("title", "whydrop".to_owned()),
        ("url", repository.to_owned()),
        ("version", VERSION.to_owned()),
    ];
    labels.extend(revision().map(|revision| ("revision", revision)));
    let name = |(name, value)| (format!("org.opencontainers.image.{name}"), value);
    labels.into_iter().map(name).collect()
}

/// The commit, where that is all that went into the image.
fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        let output = git.args(arguments).current_dir(root()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    git(&["status", "--porcelain"]).filter(String::is_empty)?;
    git(&["rev-parse", "HEAD"])
}

/// The call that builds the program.
fn build(arch: Arch) -> Command {
    let mut build = cargo(["build", "--quiet", "--locked", "--package", "whydrop"]);
    build.args(["--bin", PROGRAM, "--profile", PROFILE]);
    set_target(&mut build, arch, &[]);
    build
}

/// Has a call build for a processor, with these flags besides its own.
pub(crate) fn set_target(build: &mut Command, arch: Arch, flags: &[String]) {
    let target = arch.target();
    build.args(["--target", target]);
    // rustc brings this linker, and its target brings musl: one machine links for both processors.
    build.args(["--config", &format!("target.{target}.linker='rust-lld'")]);
    build.env(format!("CC_{}", target.replace('-', "_")), arch.compiler().0);
    set_rustflags(build, target, flags);
}

/// Where [`build`] makes it.
fn profile(arch: Arch) -> Result<PathBuf> {
    Ok(target_folder()?.join(arch.target()).join(PROFILE))
}

fn default_output(arch: Arch, program_only: bool) -> Result<PathBuf> {
    let folder = target_folder()?.join("images");
    fs::create_dir_all(&folder)?;
    let end = if program_only { "" } else { ".tar" };
    Ok(folder.join(format!("whydrop-{VERSION}-{}{end}", arch.name())))
}
