//! Which jobs go to the accelerator, and what happens when it fails: the CPU does them.

use core::num::NonZeroU32;

use super::{Accelerator, Fault, GroupJob, Severity};

/// When to use the device and when to stop using it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Policy {
    /// Jobs with fewer multiply-accumulates (padding included) stay on the CPU: a job has a fixed
    /// cost of some twenty register accesses, and one pass over panel and sums for their checksums.
    pub min_macs: u64,
    /// Faults in a row after which the device is switched off; refusals do not count. A lasting
    /// fault switches it off at once.
    pub faults_to_switch_off: NonZeroU32,
    /// Have the CPU repeat every so many jobs of the device and compare. `None` for never. It is
    /// the only check that finds a device which computes wrong.
    pub audit_every: Option<NonZeroU32>,
}

impl Policy {
    /// Jobs from 2¹⁸ multiply-accumulates on, three faults in a row, no audits. The job size is an
    /// assumption: measure it for the device at hand.
    pub const DEFAULT: Self = Self {
        min_macs: 1 << 18,
        faults_to_switch_off: NonZeroU32::MIN.saturating_add(2),
        audit_every: None,
    };
}

impl Default for Policy {
    /// [`Policy::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a dispatcher has done so far. The counts stop at `u32::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Report {
    /// Jobs whose sums are the device's.
    pub on_device: u32,
    /// Jobs whose sums are the CPU's, for any reason.
    pub on_cpu: u32,
    /// Jobs that were too small for the device.
    pub too_small: u32,
    /// Jobs that the device could not take.
    pub refused: u32,
    /// Jobs that failed on the device.
    pub faults: u32,
    /// Refused and failed jobs by what happened, in the order of [`Fault::KINDS`].
    pub by_kind: [u32; Fault::KINDS.len()],
    /// Jobs of the device that the CPU repeated.
    pub audits: u32,
    /// The last refusal or fault.
    pub last_fault: Option<Fault>,
    /// The device is switched off for good.
    pub switched_off: bool,
}

/// Who worked out a job's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Ran {
    /// The device.
    OnDevice,
    /// The CPU: there is no device, it is switched off, or the job is too small for it.
    OnCpu,
    /// The CPU, after the device refused the job or failed at it.
    OnCpuAfter(Fault),
}

/// Sends jobs to a device or to the CPU; the sums are the same.
pub struct Dispatcher<'d> {
    device: Option<&'d mut dyn Accelerator>,
    policy: Policy,
    report: Report,
    faults_in_a_row: u32,
    /// Jobs of the device since the last audit.
    since_audit: u32,
}

impl<'d> Dispatcher<'d> {
    /// A dispatcher to `device`.
    pub fn new(device: &'d mut dyn Accelerator, policy: Policy) -> Self {
        Self { device: Some(device), policy, ..Self::without_device() }
    }

    /// A dispatcher that does everything on the CPU.
    pub fn without_device() -> Self {
        Self {
            device: None,
            policy: Policy::default(),
            report: Report::default(),
            faults_in_a_row: 0,
            since_audit: 0,
        }
    }

    /// What was done so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The device's name, while it is in use.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref().map(Accelerator::name)
    }

    /// Whether a job of this many multiply-accumulates would be tried on the device. A caller asks
    /// before it lays out a panel that only the device needs.
    pub fn wants(&self, macs: u64) -> bool {
        self.device.is_some() && macs >= self.policy.min_macs
    }

    /// Fills `sums` with the job's result. `cpu` must overwrite all of it, whatever it holds.
    pub fn run(
        &mut self,
        job: &GroupJob<'_>,
        sums: &mut [i32],
        mut cpu: impl FnMut(&GroupJob<'_>, &mut [i32]),
    ) -> Ran {
        let ran = self.offer(job, sums, &mut cpu);
        if ran != Ran::OnDevice {
            cpu(job, sums);
        }
        ran
    }

    /// As [`Dispatcher::run`], but unless the device did the job, it is left to the caller, who may
    /// have a faster way than by sums; they then hold anything. `audit` is the CPU function that
    /// audits compare with.
    pub fn offer(
        &mut self,
        job: &GroupJob<'_>,
        sums: &mut [i32],
        audit: impl FnOnce(&GroupJob<'_>, &mut [i32]),
    ) -> Ran {
        let is_large = self.wants(job.macs());
        let Some(device) = self.device.as_deref_mut().filter(|_| is_large) else {
            self.keep();
            return Ran::OnCpu;
        };
        if let Err(fault) = device.group_matmul(job, sums) {
            return self.failed(fault);
        }
        self.since_audit = self.since_audit.saturating_add(1);
        if self.policy.audit_every.is_some_and(|every| self.since_audit >= every.get()) {
            self.since_audit = 0;
            count(&mut self.report.audits, 1);
            // Checksums stand for the sums, so that an audit needs no second buffer.
            let found = crate::crc::hash(bytemuck::must_cast_slice(sums));
            audit(job, sums);
            let expected = crate::crc::hash(bytemuck::must_cast_slice(sums));
            if found != expected {
                return self.failed(Fault::WrongSums { expected, found });
            }
        }
        self.faults_in_a_row = 0;
        count(&mut self.report.on_device, 1);
        Ran::OnDevice
    }

    /// Counts a job that the device is not tried with.
    pub(crate) fn keep(&mut self) {
        let is_small = self.device.is_some();
        count(&mut self.report.too_small, u32::from(is_small));
        count(&mut self.report.on_cpu, 1);
    }

    /// Keeps the books after a fault; the job is the CPU's.
    pub(crate) fn failed(&mut self, fault: Fault) -> Ran {
        count(&mut self.report.on_cpu, 1);
        self.report.last_fault = Some(fault);
        if let Some(of_this_kind) = self.report.by_kind.get_mut(fault.kind()) {
            count(of_this_kind, 1);
        }
        let severity = fault.severity();
        if severity == Severity::Refusal {
            count(&mut self.report.refused, 1);
            return Ran::OnCpuAfter(fault);
        }
        count(&mut self.report.faults, 1);
        count(&mut self.faults_in_a_row, 1);
        let is_too_much = self.faults_in_a_row >= self.policy.faults_to_switch_off.get();
        if severity == Severity::Lasting || is_too_much {
            self.device = None;
            self.report.switched_off = true;
        }
        Ran::OnCpuAfter(fault)
    }
}

fn count(counter: &mut u32, n: u32) {
    *counter = counter.saturating_add(n);
}
