//! The software model of an accelerator behind a register window in RAM, with a fault if the host
//! asks for one. Driver, dispatcher and encoder cannot tell it from a device.

use grouse_runtime::Result;
use grouse_runtime::accelerator::{
    Accelerator, Capability, Dispatcher, Driver, Injected, Limits, Mmio, Model, Policy, Window,
    Windowed,
};
use grouse_runtime::encoder::{Encoder, Offload};
use grouse_runtime::view;
use grouse_runtime::wire::Offloaded;

/// The model needs a poll for each token and three more.
const LIMITS: Limits = Limits { job_polls: 64, reset_polls: 8, check_unknown_weights: true };
/// Everything is tried: the model is there to be tried, not to be fast.
const POLICY: Policy = Policy { min_macs: 0, ..Policy::DEFAULT };
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

/// The registers' place.
pub struct Place(Window);

impl Place {
    /// A window in which there is nothing yet.
    pub fn new() -> Self {
        Self(Window::filled(0))
    }
}

/// The device as its driver sees it.
pub type Device<'w> = Driver<Mmio<Windowed<'w>>>;

/// The device in `place`; `None` when none was asked for or the driver does not accept it.
pub fn open(place: &Place, choice: Choice) -> Option<Device<'_>> {
    let Choice::Model(fault) = choice else { return None };
    let capability = Capability { address_bits: 32, ..Model::CAPABILITY };
    // SAFETY: the one driver of this window is made here.
    let device = unsafe { Windowed::new(&place.0, capability, fault, SPARED) };
    // SAFETY: the driver borrows the window; the model looks at it in the driver's pauses only, and
    // touches the memory of its descriptors only.
    let bus = unsafe { Mmio::new(place.0.base(), device, "model") };
    match Driver::open(bus, LIMITS) {
        Ok(driver) => Some(driver),
        Err(fault) => {
            defmt::warn!("no accelerator: {}", fault);
            None
        }
    }
}

/// What the encoder's products go through.
pub struct Attached<'a>(Offload<'a>);

impl<'a> Attached<'a> {
    /// Bytes of memory for the device.
    pub fn bytes(choice: Choice, model: &view::Model<'_>) -> Result<usize> {
        match choice {
            Choice::Nothing => Ok(0),
            Choice::Model(_) => Ok(Offload::bytes(model)?.next_multiple_of(16)),
        }
    }

    /// Attaches the device, if one was asked for and whether it is there or not.
    pub fn new(
        choice: Choice,
        model: &view::Model<'_>,
        device: Option<&'a mut Device<'_>>,
        memory: &'a mut [u8],
    ) -> Result<Option<Self>> {
        let Choice::Model(_) = choice else { return Ok(None) };
        let dispatcher = match device {
            Some(device) => Dispatcher::new(device as &mut dyn Accelerator, POLICY),
            None => Dispatcher::without_device(),
        };
        Ok(Some(Self(Offload::new(model, dispatcher, memory)?)))
    }

    /// Embeds by way of the device.
    pub fn embed(
        &mut self,
        encoder: &mut Encoder<'_, '_>,
        ids: &[u32],
        values: &mut [f32],
    ) -> Result<()> {
        encoder.embed_offloaded(&[ids], values, &mut self.0)
    }

    /// What the device did.
    pub fn report(&self) -> Offloaded<'static> {
        Offloaded::from(self.0.report())
    }
}
