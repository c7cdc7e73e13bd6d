//! All that a guest has: a shell, the machine's own programs that scenarios call, the kernel's modules
//! for networks, and ours, each where it is on the machine.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Course, Ours, arch::Arch, kernel::Kernel, userland};
use crate::{kube::debian, play::scenario::scenarios, world::namespace::checked};

/// The machine's, which the worlds call.
const PROGRAMS: &[&str] = &[
    "ip",
    "tc",
    "nft",
    "iptables-legacy",
    "iptables-legacy-restore",
    "ip6tables-legacy",
    "ipset",
    "curl",
    "setpriv",
    "nsenter",
    "unshare",
    "timeout",
];
/// Below a kernel's modules, what a node may use of them.
const MODULES: &[&str] = &[
    "kernel/net",
    "kernel/drivers/net/veth",
    "kernel/drivers/net/dummy",
    "kernel/lib",
    "kernel/crypto",
];
/// Where `/lib` and the like lead, as in every Debian since 12.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];
/// Where iptables keeps its extensions, from the folder of its library.
const EXTENSIONS: &str = "xtables";
/// What the shell calls as process 1; nothing is mounted over folders that ours may be in. The kernel
/// calls `/sbin/modprobe` by itself.
const INIT: &str = r"#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t bpf bpf /sys/fs/bpf
busybox mount -t tracefs trace /sys/kernel/tracing
busybox --install -s /.busybox
busybox stty -F /dev/RESULTS raw
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/.busybox HOME=/root WHYDROP=AGENT
ip link set lo up
PLAYER inside COURSE >/dev/RESULTS
busybox sync
busybox poweroff -f
";

/// An initramfs, removed when dropped.
#[derive(Debug)]
pub struct Initramfs {
    folder: TempDir,
}

impl Initramfs {
    /// Makes one in which this course is played by these programs of ours.
    pub fn build(kernel: &Kernel, ours: &Ours, course: Course<'_>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let tree = Tree::make(&folder.path().join("tree"), kernel.arch)?;
        match kernel.arch {
            Arch::Amd64 => {
                let ours = || [&ours.agent, &ours.player].into_iter().chain(course.tests);
                for program in ours() {
                    tree.copy_stripped(program)?;
                }
                let machines =
                    PROGRAMS.iter().map(|name| found(name)).collect::<Result<Vec<_>>>()?;
                for program in &machines {
                    tree.copy(program)?;
                }
                tree.copy_libraries(ours().chain(&machines))?;
            }
            Arch::Arm64 => {
                // They are static, and stripped.
                tree.copy(&ours.agent)?;
                tree.copy(&ours.player)?;
                tree.copy_userland(&userland::unpacked()?)?;
            }
        }
        tree.copy_modules(kernel)?;
        for name in course.scenarios {
            tree.copy_folder(&scenarios().join(name))?;
        }
        let [_, results] = kernel.arch.machine().lines;
        let tests = course.tests.iter().map(|program| format!(" --tests {}", program.display()));
        let what = course.scenarios.join(" ") + &tests.collect::<String>();
        let init = INIT
            .replace("AGENT", &ours.agent.display().to_string())
            .replace("PLAYER", &ours.player.display().to_string())
            .replace("RESULTS", results)
            .replace("COURSE", &what);
        tree.write_init(&init)?;
        let image = Self { folder };
        tree.pack(&image.file())?;
        Ok(image)
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("initramfs")
    }
}

/// Where the machine has a program.
fn found(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut programs = folders.map(|folder| folder.join(name));
    programs.find(|program| program.is_file()).with_context(|| format!("no {name} in $PATH"))
}

/// The guest's files, as a folder.
struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the folders that every system has, with the shell.
    fn make(root: &Path, arch: Arch) -> Result<Self> {
        for name in MERGED {
            fs::create_dir_all(root.join("usr").join(name))?;
            symlink(Path::new("usr").join(name), root.join(name))?;
        }
        for name in ["proc", "sys", "dev", "tmp", "run", "root", "etc", "var", ".busybox"] {
            fs::create_dir(root.join(name))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        let shell = root.join("bin/busybox");
        let busybox = match arch {
            Arch::Amd64 => debian::SHELL.busybox()?,
            Arch::Arm64 => userland::busybox()?,
        };
        fs::copy(busybox, &shell).context("copy busybox")?;
        for name in ["bin/sh", "sbin/modprobe"] {
            symlink("/bin/busybox", root.join(name))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Where a file of the machine is within.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let place = self.root.join(path.strip_prefix("/")?);
        let parent = place.parent().context("a file in a folder")?;
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        Ok(place)
    }

    /// Copies a file, or what a link leads to.
    fn copy(&self, path: &Path) -> Result<()> {
        let place = self.place(path)?;
        fs::copy(path, &place).with_context(|| path.display().to_string())?;
        Ok(())
    }

    /// Copies a program without what only a debugger reads.
    fn copy_stripped(&self, path: &Path) -> Result<()> {
        let place = self.place(path)?;
        checked(Command::new("strip").args(["--strip-debug", "-o"]).arg(place).arg(path))?;
        Ok(())
    }

    fn copy_folder(&self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() { self.copy_folder(&path)? } else { self.copy(&path)? }
        }
        Ok(())
    }

    /// Copies the libraries of programs, and what iptables loads by itself.
    fn copy_libraries<'p>(&self, programs: impl Iterator<Item = &'p PathBuf>) -> Result<()> {
        let mut all = BTreeSet::new();
        for program in programs {
            // It fails where there are none.
            let Ok(text) = checked(Command::new("ldd").arg(program)) else { continue };
            let words = text.split_whitespace().filter(|word| word.starts_with('/'));
            all.extend(words.map(PathBuf::from));
        }
        for library in &all {
            self.copy(library)?;
        }
        let folders: BTreeSet<_> = all.iter().filter_map(|library| library.parent()).collect();
        for folder in folders {
            let extensions = folder.join(EXTENSIONS);
            if extensions.is_dir() {
                self.copy_folder(&extensions)?;
            }
        }
        Ok(())
    }

    /// Copies the programs that the worlds call, and all libraries, of another system's files.
    fn copy_userland(&self, files: &Path) -> Result<()> {
        let mut copy = Command::new("sh");
        copy.args(["-ec", COPY_USERLAND, "copy"]).arg(&self.root).args(PROGRAMS);
        checked(copy.current_dir(files)).context("copy programs")?;
        Ok(())
    }

    /// Copies modules as they are loaded: some kernels' are compressed, which the shell cannot read.
    fn copy_modules(&self, kernel: &Kernel) -> Result<()> {
        let (from, release) = (kernel.modules()?, kernel.release()?);
        let to = self.root.join("lib/modules").join(&release);
        fs::create_dir_all(&to)?;
        let crypto = format!("kernel/arch/{}/crypto", kernel.arch.of_kernels());
        for folder in MODULES.iter().copied().chain([crypto.as_str()]) {
            for ending in ["", ".ko", ".ko.xz", ".ko.zst"] {
                let source = from.join(format!("{folder}{ending}"));
                if source.exists() {
                    let place = to.join(folder);
                    let parent = place.parent().context("a folder of modules")?;
                    fs::create_dir_all(parent)?;
                    checked(Command::new("cp").arg("-r").arg(&source).arg(parent))?;
                }
            }
        }
        for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            let source = from.join(list);
            if source.exists() {
                fs::copy(&source, to.join(list))?;
            }
        }
        checked(Command::new("sh").args(["-ec", UNCOMPRESS, "uncompress"]).arg(&to))?;
        checked(Command::new("depmod").arg("-b").arg(&self.root).arg(&release))?;
        Ok(())
    }

    fn write_init(&self, text: &str) -> Result<()> {
        let init = self.root.join("init");
        fs::write(&init, text)?;
        Ok(fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?)
    }

    /// Packs all into a file as the kernel reads it.
    fn pack(&self, file: &Path) -> Result<()> {
        let mut pack = Command::new("sh");
        pack.args(["-ec", PACK, "pack"]).arg(debian::SHELL.busybox()?).arg(file);
        checked(pack.current_dir(&self.root)).context("pack the initramfs")?;
        Ok(())
    }
}

const UNCOMPRESS: &str = r#"find "$1" -name '*.ko.xz' -exec xz -d {} +
find "$1" -name '*.ko.zst' -exec zstd -q -d --rm {} +"#;
/// Links among programs lead through `/etc`, where a package's installation would put them.
const COPY_USERLAND: &str = r#"root=$1; shift
cp -a usr/lib "$root/usr/"
for name in "$@"; do
  for folder in usr/sbin usr/bin; do
    if test -e "$folder/$name"; then cp -a "$folder/$name" "$root/$folder/"; fi
  done
done
cp -a usr/sbin/xtables-legacy-multi "$root/usr/sbin/"
"#;
const PACK: &str = r#"find . | "$1" cpio -o -H newc -R 0:0 >"$2""#;
