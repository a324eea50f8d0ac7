//! Which backends this build knows, and which of them this processor runs.

use std::fmt;

use grouse_runtime::kernels;
use serde::Serialize;

use crate::{Error, Result, engine};

/// The variable that names a backend, as `--backend` does.
pub const VARIABLE: &str = "GROUSE_BACKEND";

/// What `grouse inspect --cpu` shows.
#[derive(Debug, Clone, Serialize)]
pub struct CpuReport {
    /// The architecture that this program was built for.
    pub architecture: &'static str,
    /// The backends of this build, slowest first.
    pub backends: Vec<BackendFigures>,
    /// The backend used when no `--backend` is given.
    pub chosen: &'static str,
    /// Why.
    pub reason: String,
}

/// A backend.
#[derive(Debug, Clone, Serialize)]
pub struct BackendFigures {
    /// Its name.
    pub name: &'static str,
    /// The instructions that it needs.
    pub needs: &'static str,
    /// Whether this processor has them.
    pub available: bool,
}

impl CpuReport {
    /// Asks the processor and the environment.
    ///
    /// # Errors
    /// When GROUSE_BACKEND names no backend, or one that this processor cannot run.
    pub fn new() -> Result<Self> {
        let named = match std::env::var(VARIABLE) {
            Ok(name) => Some(name),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(Error::input(
                    format!("{VARIABLE} is not UTF-8"),
                    "unset it, or name a backend",
                ));
            }
        };
        let chosen = engine::backend(named.as_deref())?.name();
        let reason = match named {
            Some(_) => format!("{VARIABLE} names it"),
            None => "the last of the list that this processor runs".to_string(),
        };
        let backends = kernels::entries()
            .iter()
            .map(|entry| BackendFigures {
                name: entry.name,
                needs: entry.needs,
                available: (entry.detect)().is_some(),
            })
            .collect();
        Ok(Self { architecture: std::env::consts::ARCH, backends, chosen, reason })
    }
}

impl fmt::Display for CpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "processor  {}", self.architecture)?;
        writeln!(f, "chosen     {}: {}", self.chosen, self.reason)?;
        writeln!(f, "\nbackend       runs here  needs")?;
        for backend in &self.backends {
            let here = if backend.available { "yes" } else { "no" };
            writeln!(f, "{:<13} {here:<10} {}", backend.name, backend.needs)?;
        }
        Ok(())
    }
}
