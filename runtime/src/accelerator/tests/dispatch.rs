//! The dispatcher: who does which job, and when the device is switched off.

use std::num::NonZeroU32;

use super::*;

#[test]
fn the_device_is_switched_off_after_faults_in_a_row() {
    let mut case = Case::ragged();
    // Faults at jobs 2, 3 and 4 of the device; the first goes well.
    let bus = Faulty::on_jobs(Model::default(), Injected::WrongChecksum, 2..=u32::MAX);
    let mut driver = Driver::open(bus, LIMITS).unwrap();
    let mut dispatcher = Dispatcher::new(&mut driver, eager());
    let mut ran = Vec::new();
    for _ in 0..6 {
        ran.push(case.run(|job, sums| dispatcher.run(job, sums, plain)));
        assert_eq!(case.sums(), case.expected);
    }
    assert_eq!(ran[0], Ran::OnDevice);
    assert!(ran[1..4].iter().all(|ran| matches!(ran, Ran::OnCpuAfter(_))));
    assert_eq!(ran[4..], [Ran::OnCpu; 2]);
    let report = *dispatcher.report();
    assert!(report.switched_off && dispatcher.device().is_none() && !dispatcher.wants(u64::MAX));
    assert_eq!((report.on_device, report.on_cpu, report.faults), (1, 5, 3));
    assert_eq!(driver.bus_mut().jobs(), 4);
}

/// A device without registers that fails at every second job, starting with the first.
struct Moody(u32);

impl Accelerator for Moody {
    fn name(&self) -> &str {
        "moody"
    }

    fn group_matmul(&mut self, job: &GroupJob<'_>, sums: &mut [i32]) -> Result<(), Fault> {
        self.0 += 1;
        if self.0 % 2 == 1 { Err(Fault::TimeOut { polls: self.0 }) } else { job.run_plainly(sums) }
    }
}

#[test]
fn faults_apart_do_not_switch_the_device_off() {
    let mut case = Case::ragged();
    let policy = Policy { faults_to_switch_off: NonZeroU32::new(2).unwrap(), ..eager() };
    let mut moody = Moody(0);
    let mut dispatcher = Dispatcher::new(&mut moody, policy);
    for _ in 0..6 {
        case.run(|job, sums| dispatcher.run(job, sums, plain));
        assert_eq!(case.sums(), case.expected);
    }
    let expected = Report {
        on_device: 3,
        on_cpu: 3,
        faults: 3,
        by_kind: Fault::KINDS.map(|kind| if kind == "time-out" { 3 } else { 0 }),
        last_fault: Some(Fault::TimeOut { polls: 5 }),
        ..Report::default()
    };
    assert_eq!(*dispatcher.report(), expected);
    assert_eq!(dispatcher.device(), Some("moody"));
}

#[test]
fn an_audit_finds_a_device_that_computes_wrong() {
    // Unchecked weights that are read wrong: every checksum is in order, the sums are not.
    let limits = Limits { check_unknown_weights: false, ..LIMITS };
    let bus = Faulty::new(Model::default(), Injected::FlippedInput(Region::Weights));
    let mut case = Case::ragged();
    let mut driver = Driver::open(bus, limits).unwrap();
    assert_eq!(case.run(|job, sums| driver.group_matmul(job, sums)), Ok(()));
    assert_ne!(case.sums(), case.expected, "nobody noticed");

    let policy = Policy { audit_every: NonZeroU32::new(2), ..eager() };
    let mut dispatcher = Dispatcher::new(&mut driver, policy);
    assert_eq!(case.run(|job, sums| dispatcher.run(job, sums, plain)), Ran::OnDevice);
    let ran = case.run(|job, sums| dispatcher.run(job, sums, plain));
    assert!(matches!(ran, Ran::OnCpuAfter(Fault::WrongSums { .. })));
    assert_eq!(case.sums(), case.expected);
    assert!(dispatcher.report().switched_off);

    let mut driver = Driver::open(Model::default(), limits).unwrap();
    let mut dispatcher = Dispatcher::new(&mut driver, policy);
    for _ in 0..5 {
        assert_eq!(case.run(|job, sums| dispatcher.run(job, sums, plain)), Ran::OnDevice);
    }
    assert_eq!((dispatcher.report().audits, dispatcher.report().on_device), (2, 5));
}

#[test]
fn small_jobs_stay_on_the_cpu() {
    let mut case = Case::ragged();
    let macs = case.run(|job, _| job.macs());
    assert_eq!(macs, 16 * 80 * 5);
    let mut driver = Driver::open(Model::default(), LIMITS).unwrap();
    let mut dispatcher =
        Dispatcher::new(&mut driver, Policy { min_macs: macs + 1, ..Policy::default() });
    assert!(!dispatcher.wants(macs) && dispatcher.wants(macs + 1));
    assert_eq!(case.run(|job, sums| dispatcher.run(job, sums, plain)), Ran::OnCpu);
    assert_eq!(case.sums(), case.expected);
    assert_eq!((dispatcher.report().too_small, dispatcher.report().on_cpu), (1, 1));

    let mut none = Dispatcher::without_device();
    assert_eq!(case.run(|job, sums| none.run(job, sums, plain)), Ran::OnCpu);
    assert_eq!(case.sums(), case.expected);
    assert_eq!((none.report().too_small, none.report().on_cpu), (0, 1));
}

#[test]
fn what_the_device_cannot_take_is_refused_and_not_held_against_it() {
    let refuse = |capability: Capability| {
        let mut case = Case::ragged();
        let mut driver = Driver::open(Model::new(capability), LIMITS).unwrap();
        let mut dispatcher = Dispatcher::new(&mut driver, eager());
        for _ in 0..5 {
            case.run(|job, sums| dispatcher.run(job, sums, plain));
            assert_eq!(case.sums(), case.expected);
        }
        let report = *dispatcher.report();
        assert_eq!((report.refused, report.faults, report.switched_off), (5, 0, false));
        assert_eq!(driver.bus_mut().device().read(Register::Job), 0, "it heard nothing");
        report.last_fault.unwrap()
    };
    let too_large = Fault::TooLarge { rows: 16, depth: 80, max_rows: 12, max_depth: 16_384 };
    assert_eq!(refuse(Capability { max_rows: 12, ..Model::CAPABILITY }), too_large);
    let too_deep = Fault::TooLarge { rows: 16, depth: 80, max_rows: 16_384, max_depth: 64 };
    assert_eq!(refuse(Capability { max_depth: 64, ..Model::CAPABILITY }), too_deep);
    let no_room = refuse(Capability { panel_bytes: 79, ..Model::CAPABILITY });
    assert!(matches!(no_room, Fault::TooLarge { depth: 80, .. }));
    // The model's memory starts at 4 GiB.
    let unreachable = refuse(Capability { address_bits: 32, ..Model::CAPABILITY });
    assert_eq!(unreachable, Fault::Unreachable { region: Region::Weights });
}
