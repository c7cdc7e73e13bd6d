//! A guest: started, listened to, and ended.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{kernel::Kernel, line::Line};

/// How long a guest may take until it plays: it is emulated, on a machine that others use.
pub const BOOT_WAIT: Duration = Duration::from_secs(180);
/// How long it may take for one scenario.
pub const CASE_WAIT: Duration = Duration::from_secs(120);
/// How long it may take for a program of tests.
pub const TESTS_WAIT: Duration = Duration::from_mins(30);
/// The guest's memory in MiB: the initramfs twice while it is unpacked, an agent, and the maps.
const MEMORY: &str = "1536";
/// The kernel's parameters: it looks for a timer by waiting for one, in vain where the emulator gets no
/// time meanwhile; and what it does against other guests of one processor is emulated at a high price.
const PARAMETERS: &str = "panic=-1 quiet mitigations=off no_timer_check";
/// How much of what the kernel said is kept for an error.
const LINES_SHOWN: usize = 40;

/// Boots a kernel, hears its lines until it is off or the time is over, and returns the last that the
/// kernel itself said. Emulated, never by KVM: that is the same on every machine.
pub fn boot(
    kernel: &Kernel,
    initramfs: &Path,
    patience: Duration,
    mut hear: impl FnMut(Line),
) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let console = folder.path().join("console");
    // It ends with this process, however that ends.
    let mut command = Command::new("setpriv");
    let machine = kernel.arch.machine();
    command.args(["--pdeathsig", "KILL", "--", machine.emulator]).args(machine.board);
    command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", MEMORY, "-cpu", "max"]);
    command.args(["-no-reboot", "-display", "none", "-monitor", "none", "-nic", "none"]);
    command.arg("-kernel").arg(kernel.image()?).arg("-initrd").arg(initramfs);
    let [own_line, _] = machine.lines;
    command.args(["-append", &format!("console={own_line} {PARAMETERS}")]);
    command.arg("-serial").arg(format!("file:{}", console.display())).args(machine.second_line);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut guest = command.spawn().with_context(|| format!("run {}", machine.emulator))?;
    let out = guest.stdout.take().context("standard output")?;
    let (sender, lines) = mpsc::channel();
    // The thread ends when the guest does.
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + patience;
    while let Ok(text) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Ok(line) = serde_json::from_str(text.trim()) {
            hear(line);
        }
    }
    // It has ended by itself where that fails.
    let _ = guest.kill();
    guest.wait()?;
    let said = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let said: Vec<&str> = said.lines().collect();
    Ok(said[said.len().saturating_sub(LINES_SHOWN)..].join("\n"))
}
