//! The program on a board: text frames in, embeddings out.
//!
//! The path of a request: [`board`] (bytes) → [`link`] (frames) → [`serve`] (answers). The model
//! lies in the board's model region and is executed there; see [`arch`].

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

mod accelerator;
mod arch;
mod backends;
mod board;
mod engine;
mod fault;
mod first_boot;
mod link;
mod log;
mod serve;

use crate::accelerator::Place;
use crate::board::{Counter, Uart};
use crate::engine::Engine;
use crate::serve::Server;

#[cfg(target_os = "linux")]
fn main() {
    arch::start()
}

/// Runs the program on a board whose core and stack are ready.
pub(crate) fn run() -> ! {
    board::start();
    Uart::log().start();
    Uart::wire().start();
    Counter::start();
    defmt::info!("grouse {=str} on {=str}", env!("CARGO_PKG_VERSION"), board::BOARD_ID);

    let model = arch::model();
    match &model {
        Ok(model) => defmt::info!("model of {=usize} bytes is sound", model.bytes().len()),
        Err(refusal) => defmt::warn!("no usable model: {}", refusal),
    }
    let (Some(arena), Some(mut server)) = (arch::arena(), Server::take()) else {
        // Both are taken here and nowhere else.
        arch::stop()
    };
    if let Ok(model) = &model {
        server.test_once(model, arena);
    }
    let mut hello = server.serve(None);
    loop {
        let id = hello.id;
        let place = Place::new();
        let mut device = hello.accelerator.and_then(|choice| accelerator::open(&place, choice));
        let engine = match &model {
            Ok(model) => Engine::new(model, &hello, arena, device.as_mut()),
            Err(refusal) => Err(*refusal),
        };
        hello = match engine {
            Ok(mut engine) => {
                server.welcome(id, &engine.info());
                server.serve(Some(&mut engine))
            }
            Err(refusal) => {
                server.refuse(id, refusal);
                server.serve(None)
            }
        };
    }
}
