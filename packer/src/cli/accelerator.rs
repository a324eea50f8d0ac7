//! `--accelerator` of `grouse embed`: the accelerator's software model, with a fault if asked for.

use grouse_runtime::accelerator::{
    self, Dispatcher, Driver, Fault, Faulty, Injected, Limits, Policy, Report,
};
use grouse_runtime::encoder::Offload;

use crate::engine::{Answer, Engine};
use crate::{Error, Result};

/// Jobs that come out well before a fault strikes.
const SPARED: u32 = 4;

/// The model with its driver, and memory for its jobs.
pub(super) struct Accelerator {
    /// `None` when the driver does not accept it.
    device: Option<Box<dyn accelerator::Accelerator>>,
    memory: Vec<u128>,
}

impl Accelerator {
    /// The model, or the model with the fault called `name`.
    ///
    /// # Errors
    /// When there is no such fault; the message lists them.
    pub(super) fn open(name: &str, engine: &Engine<'_>) -> Result<Self> {
        // The model works a token off at each poll.
        let limits = Limits { job_polls: 64, reset_polls: 64, ..Limits::default() };
        let model = accelerator::Model::default();
        let device = if name == "model" {
            boxed(Driver::open(model, limits))
        } else {
            let fault = Injected::by_name(name).ok_or_else(|| {
                let known = Injected::NAMED.map(|(name, _)| name).join(", ");
                let cause = format!("the accelerator's model has no fault called \"{name}\"");
                Error::input(cause, format!("use \"model\" for none, or one of: {known}"))
            })?;
            boxed(Driver::open(Faulty::on_jobs(model, fault, SPARED + 1..=u32::MAX), limits))
        };
        let device = device.inspect_err(|fault| eprintln!("note: {fault}")).ok();
        let bytes = Offload::bytes(engine.model()).map_err(Error::runtime("the model"))?;
        Ok(Self { device, memory: vec![0; bytes.div_ceil(size_of::<u128>())] })
    }

    /// Embeds `texts` with it, `batch` at a time, and hands the answers to `each`.
    ///
    /// # Errors
    /// The first failing text's, or what `each` returns.
    pub(super) fn embed(
        &mut self,
        engine: &Engine<'_>,
        texts: &[String],
        batch: usize,
        mut each: impl FnMut(usize, &[Answer]) -> Result<()>,
    ) -> Result<Report> {
        let dispatcher = match self.device.as_deref_mut() {
            // Everything is tried: the model is there to be tried, not to be fast.
            Some(device) => Dispatcher::new(device, Policy { min_macs: 0, ..Policy::DEFAULT }),
            None => Dispatcher::without_device(),
        };
        let memory = bytemuck::cast_slice_mut(&mut self.memory);
        let mut offload = Offload::new(engine.model(), dispatcher, memory)
            .map_err(Error::runtime("the accelerator's memory"))?;
        for (number, texts) in texts.chunks(batch.max(1)).enumerate() {
            each(number * batch, &engine.embed_offloaded(texts, &mut offload)?)?;
        }
        Ok(*offload.report())
    }
}

fn boxed(
    driver: std::result::Result<impl accelerator::Accelerator + 'static, Fault>,
) -> std::result::Result<Box<dyn accelerator::Accelerator>, Fault> {
    driver.map(|driver| Box::new(driver) as Box<dyn accelerator::Accelerator>)
}

/// The report in words.
pub(super) fn words(report: &Report) -> String {
    let Report { on_device, on_cpu, refused, faults, switched_off, .. } = report;
    let kinds = Fault::KINDS.iter().zip(report.by_kind).filter(|(_, count)| *count > 0);
    let kinds: Vec<String> = kinds.map(|(kind, count)| format!("{kind} {count}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let off = if *switched_off { "; it was switched off" } else { "" };
    format!(
        "group products: {on_device} on the accelerator, {on_cpu} on the CPU; {refused} refused, \
         {faults} failed{kinds}{off}"
    )
}
