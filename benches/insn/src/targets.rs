//! The targets: how a guest is built for each, and what runs it.

/// A target to count on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// The core and its instructions, for people.
    pub core: &'static str,
    /// Compiler target; `None` for the host's own.
    pub triple: Option<&'static str>,
    /// Flags for rustc.
    pub rustflags: &'static [&'static str],
    /// A linker that must be installed, and its Debian packages.
    pub linker: Option<(&'static str, &'static str)>,
    /// What runs the guest.
    pub runner: Runner,
}

/// What runs a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Runner {
    /// The host itself: bits without counts.
    Native,
    /// A Linux program under user-mode QEMU.
    User {
        /// The program.
        qemu: &'static str,
        /// Its `-cpu`.
        cpu: &'static str,
    },
    /// A whole machine in `qemu-system-arm`; its memory map is `cortex-m/memory/NAME.x`.
    Machine(&'static str),
}

impl Runner {
    /// The program that must be installed, and its Debian package.
    pub(crate) fn program(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Native => None,
            Self::User { qemu, .. } => Some((qemu, "qemu-user")),
            Self::Machine(_) => Some(("qemu-system-arm", "qemu-system-arm")),
        }
    }
}

const AARCH64: Option<&str> = Some("aarch64-unknown-linux-musl");
const ARMV7: Option<&str> = Some("armv7-unknown-linux-gnueabihf");
const ARMV7_LINKER: Option<(&str, &str)> =
    Some(("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"));
const V7M: Option<&str> = Some("thumbv7em-none-eabihf");
const V8M: Option<&str> = Some("thumbv8m.main-none-eabihf");

const fn aarch64(name: &'static str, core: &'static str, cpu: &'static str) -> Target {
    // One image for all: the guest finds out what the core can do, as on a device.
    let rustflags = &["-Clinker=rust-lld"];
    let runner = Runner::User { qemu: "qemu-aarch64", cpu };
    Target { name, core, triple: AARCH64, rustflags, linker: None, runner }
}

const fn armv7(
    name: &'static str,
    core: &'static str,
    rustflags: &'static [&'static str],
) -> Target {
    let runner = Runner::User { qemu: "qemu-arm", cpu: "cortex-a7" };
    Target { name, core, triple: ARMV7, rustflags, linker: ARMV7_LINKER, runner }
}

const fn cortex_m(
    name: &'static str,
    core: &'static str,
    triple: Option<&'static str>,
    rustflags: &'static [&'static str],
    machine: &'static str,
) -> Target {
    Target { name, core, triple, rustflags, linker: None, runner: Runner::Machine(machine) }
}

/// All targets.
pub(crate) static TARGETS: &[Target] = &[
    Target {
        name: "host",
        core: "this machine, not counted",
        triple: None,
        rustflags: &[],
        linker: None,
        runner: Runner::Native,
    },
    aarch64("cortex-a53", "NEON", "cortex-a53"),
    aarch64("cortex-a76", "NEON, SDOT", "cortex-a76"),
    aarch64("aarch64-max", "NEON, SDOT, I8MM, SVE", "max"),
    armv7(
        "armv7",
        "Cortex-A7, VFP",
        &["-Clinker=arm-linux-gnueabihf-gcc", "-Ctarget-feature=+crt-static"],
    ),
    armv7(
        "armv7-neon",
        "Cortex-A7, NEON",
        &["-Clinker=arm-linux-gnueabihf-gcc", "-Ctarget-feature=+crt-static,+neon"],
    ),
    cortex_m("cortex-m4", "DSP", V7M, &["-Ctarget-cpu=cortex-m4"], "mps2-an386"),
    cortex_m("cortex-m7", "DSP", V7M, &["-Ctarget-cpu=cortex-m7"], "mps2-an500"),
    cortex_m("cortex-m33", "DSP", V8M, &["-Ctarget-cpu=cortex-m33"], "mps2-an505"),
    // Helium's float instructions flush subnormal numbers and so would change results.
    cortex_m(
        "cortex-m55",
        "Helium without floats",
        V8M,
        &["-Ctarget-cpu=cortex-m55", "-Ctarget-feature=-mve.fp"],
        "mps3-an547",
    ),
];

/// The target called `name`.
pub(crate) fn by_name(name: &str) -> Result<&'static Target, String> {
    TARGETS.iter().find(|target| target.name == name).ok_or_else(|| {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        format!("unknown target; known are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (index, target) in TARGETS.iter().enumerate() {
            let found = by_name(target.name).expect("known");
            assert!(std::ptr::eq(found, &raw const TARGETS[index]), "{}", target.name);
        }
        assert!(by_name("toaster").expect_err("unknown").contains("cortex-m55"));
    }

    #[test]
    fn every_machine_has_a_memory_map() {
        for target in TARGETS {
            if let Runner::Machine(machine) = target.runner {
                let map = format!("{}/cortex-m/memory/{machine}.x", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&map).is_file(), "{map}");
            }
        }
    }
}
