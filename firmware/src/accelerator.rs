//! An accelerator for a board that has none: its software model behind a register window in RAM,
//! with a fault if the host asks for one. Driver, dispatcher and encoder cannot tell.

use grouse_runtime::accelerator::{
    Capability, Driver, Injected, Limits, Mmio, Model, Policy, Window, Windowed,
};

/// The model needs a poll for each token and three more.
const LIMITS: Limits = Limits { job_polls: 64, reset_polls: 8, check_unknown_weights: true };
/// Everything is tried: the model is there to be tried, not to be fast.
pub const POLICY: Policy = Policy { min_macs: 0, ..Policy::DEFAULT };
/// Jobs that come out well before a fault strikes.
const SPARED: u32 = 4;

/// A device that a host may ask for.
#[derive(Clone, Copy)]
pub enum Choice {
    /// None: the backend does everything.
    Nothing,
    /// The model.
    Model(Option<Injected>),
}

/// The device called `name`; `None` when that is unknown.
pub fn by_name(name: &str) -> Option<Choice> {
    match name {
        "" => Some(Choice::Nothing),
        "model" => Some(Choice::Model(None)),
        name => Injected::by_name(name).map(|fault| Choice::Model(Some(fault))),
    }
}

/// The model in `window`; `None` when the driver does not accept it.
pub fn open(window: &Window, fault: Option<Injected>) -> Option<Driver<Mmio<Windowed<'_>>>> {
    let capability = Capability { address_bits: 32, ..Model::CAPABILITY };
    // SAFETY: the one driver of this window is made here.
    let device = unsafe { Windowed::new(window, capability, fault, SPARED) };
    // SAFETY: the driver borrows the window; the model looks at it in the driver's pauses only, and
    // touches the memory of its descriptors only.
    let bus = unsafe { Mmio::new(window.base(), device, "model") };
    match Driver::open(bus, LIMITS) {
        Ok(driver) => Some(driver),
        Err(fault) => {
            defmt::warn!("no accelerator: {}", fault);
            None
        }
    }
}
