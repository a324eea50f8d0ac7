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

impl Default for Policy {
    /// Jobs from 2¹⁸ multiply-accumulates on, three faults in a row, no audits. The job size is an
    /// assumption: measure it for the device at hand.
    fn default() -> Self {
        let three = NonZeroU32::MIN.saturating_add(2);
        Self { min_macs: 1 << 18, faults_to_switch_off: three, audit_every: None }
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
        cpu: impl FnOnce(&GroupJob<'_>, &mut [i32]),
    ) -> Ran {
        let is_large = job.macs() >= self.policy.min_macs;
        let Some(device) = self.device.as_deref_mut().filter(|_| is_large) else {
            let is_small = self.device.is_some();
            count(&mut self.report.too_small, u32::from(is_small));
            count(&mut self.report.on_cpu, 1);
            cpu(job, sums);
            return Ran::OnCpu;
        };
        let result = device.group_matmul(job, sums);
        if let Err(fault) = result {
            cpu(job, sums);
            return self.failed(fault);
        }
        self.since_audit = self.since_audit.saturating_add(1);
        if self.policy.audit_every.is_some_and(|every| self.since_audit >= every.get()) {
            self.since_audit = 0;
            count(&mut self.report.audits, 1);
            // Checksums stand for the sums, so that an audit needs no second buffer.
            let found = crc32fast::hash(bytemuck::must_cast_slice(sums));
            cpu(job, sums);
            let expected = crc32fast::hash(bytemuck::must_cast_slice(sums));
            if found != expected {
                return self.failed(Fault::WrongSums { expected, found });
            }
        }
        self.faults_in_a_row = 0;
        count(&mut self.report.on_device, 1);
        Ran::OnDevice
    }

    /// Keeps the books after a fault; the CPU has done the job already.
    fn failed(&mut self, fault: Fault) -> Ran {
        count(&mut self.report.on_cpu, 1);
        self.report.last_fault = Some(fault);
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
