//! The list of backends, what each needs, and the choice among them.

use super::{Backend, scalar::Scalar, wide};

/// A backend that this build knows.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Name for `--backend` and `GROUSE_BACKEND`.
    pub name: &'static str,
    /// The instructions that it needs.
    pub needs: &'static str,
    /// The backend, when this processor has them.
    pub detect: fn() -> Option<&'static dyn Backend>,
}

/// All backends of this build, slowest first.
pub fn entries() -> &'static [Entry] {
    const {
        &[
            Entry { name: "scalar", needs: "nothing: the specification", detect: || Some(&Scalar) },
            Entry {
                name: "wide",
                needs: "nothing: what the compiler may use everywhere",
                detect: wide::detect,
            },
            // Where there is Helium, DSP code would only fill the flash.
            #[cfg(all(cortex_m_dsp, not(cortex_m_mve)))]
            Entry {
                name: "dsp",
                needs: "the DSP extension and VFP",
                detect: || Some(&super::cortex_m::dsp::Dsp),
            },
            #[cfg(cortex_m_mve)]
            Entry {
                name: "helium",
                needs: "Helium (MVE) with integers; floats are used where they are there",
                detect: || Some(&super::cortex_m::helium::Helium),
            },
            #[cfg(armv7_neon)]
            Entry { name: "neon", needs: "NEON, in the build's flags", detect: super::armv7::neon },
            #[cfg(target_arch = "x86_64")]
            Entry { name: "avx2", needs: "AVX2", detect: super::x86::avx2 },
            #[cfg(target_arch = "x86_64")]
            Entry { name: "avx-vnni", needs: "AVX2 and AVX-VNNI", detect: super::x86::avx_vnni },
            #[cfg(target_arch = "x86_64")]
            Entry {
                name: "avx512-vnni",
                needs: "AVX-512 F, BW, DQ, VL and VNNI",
                detect: super::x86::avx512_vnni,
            },
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Entry { name: "neon", needs: "NEON", detect: super::aarch64::neon },
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Entry {
                name: "neon-dot",
                needs: "NEON and SDOT (FEAT_DotProd)",
                detect: super::aarch64::neon_dot,
            },
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Entry {
                name: "neon-i8mm",
                needs: "NEON and SMMLA (FEAT_I8MM)",
                detect: super::aarch64::neon_i8mm,
            },
        ]
    }
}

/// The backends that this processor runs, slowest first.
pub fn available() -> impl DoubleEndedIterator<Item = &'static dyn Backend> {
    entries().iter().filter_map(|entry| (entry.detect)())
}

/// The backend called `name`, when this processor runs it.
pub fn by_name(name: &str) -> Option<&'static dyn Backend> {
    entries().iter().find(|entry| entry.name == name).and_then(|entry| (entry.detect)())
}

/// The backend used when none is named: the last that this processor runs.
pub fn default() -> &'static dyn Backend {
    available().next_back().unwrap_or(&Scalar)
}
