//! The emulated boards of the catalogue answer with the host's bits.
//!
//! Needs `qemu-system-arm` and `qemu-user`; what is missing is skipped, and says so. With
//! `GROUSE_REQUIRE_QEMU=1` it is a failure. `GROUSE_BOARD=ID` leaves the other boards out.

use grouse_boards::catalogue::{ImageFormat, Unit};
use grouse_boards::runner::fit::Fit;
use grouse_boards::runner::flash;
use grouse_boards::{Board, Error, Firmware, FirstBoot, Options, Session, Variant};
use grouse_runtime::format::DataType;
use grouse_runtime::view::Model;
use grouse_runtime::wire::Crash;
use grouse_tests::boards::{Packed, bits, boot, emulated, firmware, host, quiet, start, texts};
use grouse_tests::packed::Aligned;
use grouse_tests::random_bert::Shape;

/// The emulated boards but for mps3-an547, which `tests/board.rs` has for itself.
fn others() -> impl Iterator<Item = (Board, &'static Firmware)> {
    let wanted = std::env::var("GROUSE_BOARD").ok();
    let boards = emulated(|board| match &wanted {
        Some(id) => board.id == *id,
        None => board.id != "mps3-an547",
    });
    boards.into_iter()
}

/// Models of each kind of weights, with widths that are no multiple of a vector.
fn models() -> Vec<(DataType, Packed)> {
    let shape = Shape { hidden: 36, heads: 3, intermediate: 84, ..Shape::default() };
    let types = [DataType::I8, DataType::I4, DataType::F16];
    types.into_iter().map(|weights| (weights, Packed::new(weights, &shape))).collect()
}

#[test]
fn every_board_has_the_host_s_bits_and_counts() {
    // Lengths of 1 to the maximum of 64 tokens, beside the strange texts.
    let words = |n: usize| vec!["dog"; n].join(" ");
    let mut all = texts().to_vec();
    all.extend([1, 2, 13, 14, 15, 30, 31, 46, 61, 62, 63].map(words));
    let models = models();
    for (board, firmware) in others() {
        let mut expected_backends = vec!["scalar", "wide"];
        if board.backend != "wide" {
            expected_backends.push(&board.backend);
        }
        for (weights, packed) in &models {
            let path = packed.model();
            let mut session = start(&board, firmware, &path);
            let known = session.backends(&Options::default()).unwrap();
            assert!(expected_backends.iter().all(|b| known.iter().any(|k| k == b)), "{known:?}");
            session.prepare(&Options::default()).unwrap();
            assert_eq!(session.info().backend, board.backend, "{}", board.id);
            let expected = host(&path, &all);
            for backend in &known {
                let options = Options { backend: Some(backend.clone()), ..Options::default() };
                session.prepare(&options).unwrap();
                // Slow cores and kernels: the strange texts and some lengths only.
                let some = if *backend == board.backend { all.len() } else { 8 };
                let tested = session.self_test().unwrap();
                assert_eq!((tested.passed, tested.failed), (4, 0), "{} {tested:?}", board.id);
                assert!(u64::from(tested.stack_bytes) <= board.stack_bound, "{tested:?}");
                let mut before = None;
                for (text, expected) in all.iter().zip(&expected).take(some) {
                    let name = format!("{} {weights:?} {backend} {text:?}", board.id);
                    let answer = session.embed(text).unwrap();
                    assert_eq!(answer.ids, expected.ids, "{name}");
                    assert_eq!(answer.truncated, expected.truncated, "{name}");
                    assert_eq!(bits(&answer.embedding), bits(&expected.embedding), "{name}");
                    assert!(answer.tokenize_work < answer.work, "{name}");
                    before = Some(answer.work);
                }
                // The same text again takes the same instructions.
                if board.counter.unit == Unit::Instructions {
                    let again = session.embed(&all[some - 1]).unwrap().work;
                    assert_eq!(Some(again), before, "{} {backend}", board.id);
                }
            }
        }
    }
}

#[test]
fn counts_stages_sizes_and_stack_are_exact() {
    let shape = Shape { hidden: 128, heads: 1, intermediate: 256, ..Shape::default() };
    let packed = Packed::new(DataType::I8, &shape);
    let path = packed.model();
    let aligned = Aligned::new(&packed.bytes);
    let model = Model::open(aligned.bytes()).unwrap();
    let long = "one text that is far longer than the model takes, again and ".repeat(60);
    for (board, firmware) in others() {
        let mut session = boot(&board, firmware, &path);
        if board.counter.unit == Unit::Instructions {
            let overhead = session.count(1).unwrap() - 2;
            assert!(overhead < 40, "{}: reading the counter takes {overhead}", board.id);
            for loops in [2, 3, 1_000, 1_234_567] {
                let counted = session.count(loops).unwrap();
                assert_eq!(counted - overhead, 2 * u64::from(loops), "{}", board.id);
            }
        }
        let answer = session.bench(&long).unwrap();
        let stages = answer.stages.unwrap();
        let sum = stages.tokenize + stages.embed + stages.attention;
        let sum = sum + stages.feed_forward + stages.pool;
        let each = [stages.tokenize, stages.embed, stages.attention, stages.feed_forward];
        assert!(each.iter().all(|stage| *stage > 0) && stages.pool > 0, "{stages:?}");
        // What lies between the stages is next to nothing.
        assert!(
            sum <= answer.work && sum > answer.work - answer.work / 20,
            "{stages:?} {answer:?}"
        );
        let deepest = u64::from(answer.stack_bytes);
        println!("{}: {deepest} bytes of stack", board.id);
        assert!(deepest <= board.stack_bound && deepest * 4 > board.stack_bound, "{}", board.id);

        // The figures of `fit`, of the linker and of the board itself are the same.
        let info = session.info().clone();
        let fit = Fit::new(&board, firmware, &model, info.max_tokens as usize).unwrap();
        assert!(fit.fits, "{fit:?}");
        assert_eq!(info.flash_bytes, firmware.flash_bytes(), "{}", board.id);
        assert_eq!((fit.flash_bytes, fit.model_bytes), (info.flash_bytes, info.model_bytes));
        assert_eq!((fit.arena_bytes, fit.ram_bytes), (info.arena_bytes, info.ram_bytes));
        assert_eq!(info.arena_available, board.arena_available());
    }
}

#[test]
fn failures_are_visible_on_every_board() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no model");
    std::fs::write(&path, b"this is no model, and is refused as such by every board").unwrap();
    for (board, firmware) in others() {
        let mut session = start(&board, firmware, &path);
        let error = session.prepare(&Options::default()).unwrap_err();
        assert!(error.to_string().contains("not a Grouse"), "{}: {error}", board.id);
        drop(session);
        for how in [Crash::Undefined, Crash::BusFault, Crash::StackOverflow] {
            let error = start(&board, firmware, &path).crash(how).unwrap_err();
            match (&board.regions, how) {
                // The system ends the program, and the emulator says so.
                (None, _) => assert!(matches!(error, Error::Ended { .. }), "{error}"),
                (Some(_), Crash::StackOverflow) => {
                    assert!(error.to_string().contains("stack overflow"), "{}: {error}", board.id);
                }
                (Some(_), _) => {
                    assert!(matches!(error, Error::Fault { .. }), "{}: {error}", board.id);
                    assert!(!error.to_string().contains("overflow"), "{}: {error}", board.id);
                }
            }
        }
    }
}

#[test]
fn a_board_tests_itself_at_first_boot_and_not_at_a_restart() {
    let packed = Packed::new(DataType::I8, &Shape::default());
    let path = packed.model();
    let options = Options { first_boot: true, ..Options::default() };
    for (board, firmware) in others() {
        let mut session = Session::boot(&board, firmware, &path, &options, &quiet).unwrap();
        let first = session.first_boot().unwrap();
        if board.regions.is_none() {
            // Each start of a program would be the first.
            assert!(matches!(first, FirstBoot::NotRun { why } if why.contains("system")));
            continue;
        }
        let backends = session.backends(&options).unwrap().len() as u32;
        let ran = |now| FirstBoot::Ran { now, passed: 4 * backends, failed: Vec::new() };
        assert_eq!(first, ran(true), "{}", board.id);
        session.restart(&options).unwrap();
        assert_eq!(session.first_boot().unwrap(), ran(false), "{}", board.id);
        let answer = session.embed("goes on").unwrap();
        assert_eq!(bits(&answer.embedding), bits(&host(&path, &["goes on".into()])[0].embedding));
        drop(session);
        // What `grouse run` boots otherwise.
        let held = boot(&board, firmware, &path).first_boot().unwrap();
        assert!(matches!(held, FirstBoot::NotRun { why } if why.contains("host")));
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_figures() {
    // 60 tokens of 640 need more than a Pico 2 has.
    let shape = Shape { hidden: 640, heads: 10, layers: 1, intermediate: 64, ..Shape::default() };
    let packed = Packed::new(DataType::I8, &shape);
    let aligned = Aligned::new(&packed.bytes);
    let model = Model::open(aligned.bytes()).unwrap();
    let mut board = Board::by_id("pico2").unwrap();
    let firmware = firmware(&board, Variant::Shipped).unwrap();
    let fit = Fit::new(&board, firmware, &model, 60).unwrap();
    let arena = fit.memory.iter().find(|share| share.region == "arena").unwrap();
    assert!(!fit.fits && arena.margin < 0, "{fit:?}");
    let longest = fit.longest.unwrap() as usize;
    assert!(fit.advice.iter().any(|a| a.contains(&format!("--tokens {longest}"))), "{fit:?}");
    assert!(Fit::new(&board, firmware, &model, longest).unwrap().fits);
    assert!(!Fit::new(&board, firmware, &model, longest + 1).unwrap().fits);
    board.regions.as_mut().unwrap().model.length = packed.bytes.len() as u32 - 64;
    let fit = Fit::new(&board, firmware, &model, longest).unwrap();
    assert!(!fit.fits && fit.advice.iter().any(|a| a.contains("--weights i4")), "{fit:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = packed.model();
    let error =
        flash::write(&board, firmware, &path, flash::What::Both, ImageFormat::Uf2, folder.path());
    assert!(matches!(error, Err(Error::ModelTooLong { .. })), "{error:?}");
}

#[test]
fn wrong_firmware_is_named() {
    let Some((board, firmware)) = others().next() else { return };
    let another = Board::by_id("pico2").unwrap();
    assert!(matches!(firmware.check(&another), Err(Error::WrongFirmware { .. })));
    let packed = Packed::new(DataType::I8, &Shape::default());
    // The image of one board on another: the host says so before it boots anything.
    let mut other = board.clone();
    other.id = "another".into();
    let path = packed.model();
    let error = Session::boot(&other, firmware, &path, &Options::default(), &quiet).err().unwrap();
    assert!(error.to_string().contains(&board.id) && error.remedy().contains(&board.id), "{error}");
}

/// The catalogue's figures are of MiniLM; another encoder of that width must come near them.
#[test]
fn estimates_are_near_the_counts() {
    let shape = Shape { hidden: 384, heads: 12, layers: 1, intermediate: 1536, ..Shape::default() };
    for weights in [DataType::I8, DataType::I4] {
        let packed = Packed::new(weights, &shape);
        let path = packed.model();
        let aligned = Aligned::new(&packed.bytes);
        let model = Model::open(aligned.bytes()).unwrap();
        for (board, firmware) in others() {
            let fit = Fit::new(&board, firmware, &model, 32).unwrap();
            let Some(estimate) = fit.estimate else {
                assert_eq!(board.cost.element, 0.0, "{}", board.id);
                continue;
            };
            let answer = boot(&board, firmware, &path).embed(&vec!["dog"; 30].join(" ")).unwrap();
            assert_eq!(answer.ids.len(), 32);
            let counted = answer.work - answer.tokenize_work;
            let error = estimate.instructions as f64 / counted as f64 - 1.0;
            println!("{} {weights:?}: {counted} counted, {:+.1} %", board.id, 100.0 * error);
            assert!(error.abs() < 0.15, "{} {weights:?}: {counted}, {estimate:?}", board.id);
        }
    }
}
