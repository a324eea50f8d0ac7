//! The program on a board: text frames in, embeddings out.
//!
//! The path of a request: [`board`] (bytes) → [`link`] (frames) → [`serve`] (answers). The model
//! lies in the board's model region and is executed there; see [`memory`].

#![no_std]
#![no_main]

mod accelerator;
mod board;
mod engine;
mod fault;
mod link;
mod log;
mod memory;
mod serve;
mod stack;

use cortex_m_rt::entry;
use grouse_runtime::accelerator::{Accelerator, Window};

use crate::accelerator::Choice;
use crate::board::{Counter, Uart};
use crate::engine::Engine;
use crate::serve::Server;

#[entry]
fn main() -> ! {
    stack::guard();
    Uart::log().start();
    Uart::wire().start();
    Counter::start();
    defmt::info!("grouse {=str} on {=str}", env!("CARGO_PKG_VERSION"), board::BOARD_ID);

    let model = memory::model();
    match &model {
        Ok(model) => defmt::info!("model of {=usize} bytes is sound", model.bytes().len()),
        Err(refusal) => defmt::warn!("no usable model: {}", refusal),
    }
    let (Some(arena), Some(mut server)) = (memory::arena(), Server::take()) else {
        // Both are taken here and nowhere else.
        fault::stop()
    };
    let mut hello = server.serve(None);
    loop {
        let id = hello.id;
        let window = Window::filled(0);
        let mut device = match hello.accelerator {
            Some(Choice::Model(fault)) => accelerator::open(&window, fault),
            _ => None,
        };
        let device = device.as_mut().map(|device| device as &mut dyn Accelerator);
        let engine = match &model {
            Ok(model) => Engine::new(model, &hello, arena, device),
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
