//! The self-test at first boot: once for a model and a firmware, by every backend.
//!
//! What was tested is kept in RAM that no start clears, so that nothing is written to flash: a warm
//! restart finds it, a board that was without power does not and tests again.

use core::sync::atomic::{AtomicU32, Ordering};

use grouse_runtime::plan::Plan;
use grouse_runtime::self_test::ids_crc;
use grouse_runtime::view::Model;

use crate::engine::{Engine, Hello};
use crate::{accelerator, arch, backends};

/// Marks a record that is one.
const MAGIC: u32 = 0x7465_7374;
/// A host that boots an emulator holds the test back by putting this there.
const HELD_BACK: u32 = 0x6865_6c64;
/// Words of a record: magic, the model's checksum, the firmware's, texts that passed, a bit for
/// each backend that differs, and CRC-32 of these: RAM holds anything after power-up.
const WORDS: usize = 6;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".uninit.GROUSE_TESTED")]
static GROUSE_TESTED: [AtomicU32; WORDS] = [const { AtomicU32::new(0) }; WORDS];

/// How it went.
#[derive(Clone, Copy)]
pub enum Report {
    /// It was not run, for this reason.
    NotRun(&'static str),
    /// It was run.
    Ran {
        /// At this start.
        now: bool,
        /// Texts that passed, all backends together.
        passed: u32,
        /// A bit for each of [`backends::available`] that differs.
        failed: u32,
    },
}

/// Runs the test, unless the record says that it was. `ids` and `values` are room for a text's ids
/// and its embedding.
pub fn run(
    model: &Model<'static>,
    arena: &mut [u8],
    ids: &mut [u32],
    values: &mut [f32],
) -> Report {
    let Some(firmware) = arch::image_words() else {
        return Report::NotRun("programs of an operating system start too often");
    };
    if model.tests().is_empty() {
        return Report::NotRun("the file carries no self-test");
    }
    let record = GROUSE_TESTED.each_ref().map(|word| word.load(Ordering::Relaxed));
    if record.first() == Some(&HELD_BACK) {
        return Report::NotRun("the host holds it back");
    }
    let head = [MAGIC, model.checksum(), ids_crc(firmware)];
    if let [a, b, c, passed, failed, crc] = record
        && [a, b, c] == head
        && crc == ids_crc(&[a, b, c, passed, failed])
    {
        defmt::info!("self-tested before");
        return Report::Ran { now: false, passed, failed };
    }
    let Ok(Some(plan)) = Plan::longest(model, arena.len()) else {
        return Report::NotRun("the arena is too small");
    };
    defmt::info!("first boot with this model and firmware: self-test");
    let (mut passed, mut failed) = (0, 0);
    for (bit, backend) in backends::available().enumerate() {
        let hello = Hello {
            id: 0,
            max_tokens: plan.tokens,
            backend: Some(backend),
            accelerator: accelerator::by_name(""),
        };
        let tested = match Engine::new(model, &hello, arena, None) {
            Ok(mut engine) => {
                let values = values.get_mut(..engine.hidden_size()).unwrap_or_default();
                engine.self_test(ids, values)
            }
            Err(_) => return Report::NotRun("the model cannot be made ready"),
        };
        let Some(tested) = tested else { continue };
        passed += tested.passed;
        let name = backend.name();
        match tested.first {
            None => defmt::info!("{=str}: {=u32} texts passed", name, tested.passed),
            Some(first) => {
                failed |= 1 << bit;
                defmt::error!("{=str} differs: {}", name, first);
            }
        }
    }
    let [a, b, c] = head;
    let record = [a, b, c, passed, failed, ids_crc(&[a, b, c, passed, failed])];
    for (word, value) in GROUSE_TESTED.iter().zip(record) {
        word.store(value, Ordering::Relaxed);
    }
    arch::settle(&raw const GROUSE_TESTED as usize, size_of_val(&GROUSE_TESTED));
    Report::Ran { now: true, passed, failed }
}
