//! The processors that guests have.

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// As this machine's.
    Amd64,
    /// Another, emulated like the first.
    Arm64,
}

/// How QEMU gives a guest this processor, and the two lines on which it is heard.
pub(super) struct Machine {
    /// The program.
    pub(super) emulator: &'static str,
    /// What board it is on.
    pub(super) board: &'static [&'static str],
    /// What gives it the line of results; the first serial line is the kernel's own.
    pub(super) second_line: &'static [&'static str],
    /// What the kernel calls the two.
    pub(super) lines: [&'static str; 2],
}

impl Arch {
    /// As Debian calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The folder of a kernel's own code for it, below `kernel/arch`.
    pub(super) fn of_kernels(self) -> &'static str {
        match self {
            Self::Amd64 => "x86",
            Self::Arm64 => "arm64",
        }
    }

    pub(super) fn machine(self) -> Machine {
        match self {
            Self::Amd64 => Machine {
                emulator: "qemu-system-x86_64",
                board: &[],
                second_line: &["-serial", "stdio"],
                lines: ["ttyS0", "ttyS1"],
            },
            // The board has one serial line.
            Self::Arm64 => Machine {
                emulator: "qemu-system-aarch64",
                board: &["-machine", "virt"],
                second_line: &[
                    "-chardev",
                    "stdio,id=results",
                    "-device",
                    "virtio-serial-pci",
                    "-device",
                    "virtconsole,chardev=results",
                ],
                lines: ["ttyAMA0", "hvc0"],
            },
        }
    }
}
