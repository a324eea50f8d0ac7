//! The C library: its header, and the example of `docs/c.md` on emulated Cortex-M4 and Cortex-M55.

use std::path::{Path, PathBuf};
use std::process::Command;

use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::DataType;
use grouse_runtime::kernels;
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use grouse_tests::packed::{Aligned, pack};
use grouse_tests::random_bert::{self, Shape};

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/c")
}

/// `GROUSE_UPDATE_HEADER=1 cargo test -p grouse-tests --test c header` writes it anew.
#[test]
fn the_header_is_what_cbindgen_makes() {
    let crate_dir = library();
    let config = cbindgen::Config::from_file(crate_dir.join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new()
        .with_config(config)
        .with_src(crate_dir.join("src/lib.rs"))
        .generate()
        .unwrap();
    let mut header = Vec::new();
    made.write(&mut header);
    let header = String::from_utf8(header).unwrap();
    let path = crate_dir.join("include/grouse.h");
    if std::env::var_os("GROUSE_UPDATE_HEADER").is_some() {
        std::fs::write(&path, &header).unwrap();
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        header == current,
        "runtime/c/include/grouse.h is out of date: GROUSE_UPDATE_HEADER=1 cargo test -p \
         grouse-tests --test c header"
    );
}

/// The texts of `example/main.c`.
const TEXTS: [&str; 3] = [
    "",
    "A man is playing a guitar on stage.",
    "Na\u{ef}ve caf\u{e9}s: the dog and the man, 3.14!",
];

/// What this host makes of them, in the example's form.
fn expected(model: &Model<'_>) -> Vec<String> {
    let words = |values: &mut dyn Iterator<Item = u32>| -> String {
        values.map(|value| format!("{value:08x} ")).collect()
    };
    let mut lines = Vec::new();
    for text in TEXTS {
        let mut ids = vec![0; 64.min(model.arch().max_tokens as usize)];
        let tokens = model.tokenizer().encode(text, &mut ids).unwrap().tokens;
        ids.truncate(tokens);
        let plan = Plan::new(model, tokens).unwrap();
        let mut arena = vec![0.0_f32; plan.arena_bytes() / 4];
        let arena = bytemuck::cast_slice_mut(&mut arena);
        let mut encoder = Encoder::with_plan(model, kernels::default(), arena, plan).unwrap();
        let mut out = vec![0.0_f32; model.arch().hidden_size as usize];
        encoder.embed(&ids, &mut out).unwrap();
        lines.push(format!("ids {}", words(&mut ids.iter().copied())));
        lines.push(format!("embedding {}", words(&mut out.iter().map(|v| v.to_bits()))));
    }
    lines
}

fn there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        println!("skipped: {program} is not installed");
    }
    there
}

/// Runs `command` and returns its output.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A core that the example runs on, and how both compilers are told.
struct Core {
    machine: &'static str,
    target: &'static str,
    rustflags: &'static str,
    gcc: [&'static str; 2],
    model: u32,
    backend: &'static str,
}

#[test]
fn the_example_has_the_bits_of_the_host_on_a_cortex_m4() {
    example(&Core {
        machine: "mps2-an386",
        target: "thumbv7em-none-eabihf",
        rustflags: "-Ctarget-cpu=cortex-m4",
        gcc: ["-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"],
        model: 0x2100_0000,
        backend: "dsp",
    });
}

#[test]
fn the_example_has_the_bits_of_the_host_on_a_cortex_m55() {
    example(&Core {
        machine: "mps3-an547",
        target: "thumbv8m.main-none-eabihf",
        // As for the board's firmware: vectors of integers only.
        rustflags: "-Ctarget-cpu=cortex-m55\x1f-Ctarget-feature=-mve.fp",
        gcc: ["-mcpu=cortex-m55", "-mfpu=auto"],
        model: 0x6000_0000,
        backend: "helium",
    });
}

fn example(core: &Core) {
    let Core { machine, target, rustflags, gcc, model: origin, backend } = *core;
    if !there("arm-none-eabi-gcc") || !there("qemu-system-arm") {
        return;
    }
    let installed = Command::new("rustup").args(["target", "list", "--installed"]).output();
    if !installed.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(target)) {
        println!("skipped: rustup target add {target}");
        return;
    }
    // A folder of its own: the workspace's is locked by the cargo that runs this test, it may be.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c").join(machine);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    output(
        Command::new(cargo)
            .args(["build", "--release", "-p", "grouse-c", "--target", target, "--target-dir"])
            .arg(&built)
            .current_dir(library())
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags),
    );
    let image = built.join("example.elf");
    let example = library().join("example");
    output(
        Command::new("arm-none-eabi-gcc")
            .args(gcc)
            .args(["-mthumb", "-mfloat-abi=hard"])
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-std=c11", "-ffreestanding"])
            .args(["-nostdlib", "-Wl,--gc-sections", "-T"])
            .arg(example.join(machine).with_extension("ld"))
            .arg(format!("-I{}", library().join("include").display()))
            .args([example.join("main.c"), example.join("startup.c")])
            .arg(built.join(target).join("release/libgrouse_c.a"))
            .arg("-o")
            .arg(&image),
    );

    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, &Shape { hidden: 64, heads: 4, ..Shape::default() }, 31);
    let dense = grouse::import::load_dir(&dir).unwrap();
    for weights in [DataType::I8, DataType::I4, DataType::F32] {
        let sentences: Vec<Vec<u32>> = (0..8).map(|s| (s..s + 9).collect()).collect();
        let file = Aligned::new(&pack(&dense, weights, &sentences));
        let path = root.path().join("model.grouse");
        std::fs::write(&path, file.bytes()).unwrap();
        let run = |path: &Path| {
            let loader = format!("loader,file={},addr={origin:#x},force-raw=on", path.display());
            let mut command = Command::new("timeout");
            command
                .args(["120", "qemu-system-arm", "-machine", machine, "-display", "none"])
                .args(["-monitor", "none", "-serial", "none", "-chardev", "stdio,id=host"])
                .args(["-semihosting-config", "enable=on,target=native,chardev=host"])
                .args(["-device", &loader, "-kernel"])
                .arg(&image);
            command
        };
        let printed = output(&mut run(&path));
        let mut lines = printed.lines();
        assert_eq!(
            lines.next(),
            Some(&*format!("self-test passed 00000004 backend {backend}")),
            "{printed}"
        );
        let model = Model::open(file.bytes()).unwrap();
        assert_eq!(lines.collect::<Vec<_>>(), expected(&model), "{weights:?}");

        // A damaged file is refused in words.
        let mut bytes = file.bytes().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let refused = run(&path).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("a checksum does not match: flash the file again"), "{said}");
    }
}
