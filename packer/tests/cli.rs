//! The program itself: exit codes and messages for bad input, and that the number of threads does
//! not show in the answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use grouse_runtime::format::DataType;
use grouse_runtime::kernels;
use grouse_tests::packed::pack;
use grouse_tests::random_bert::{self, Shape};

fn grouse(arguments: &[&str], backend: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grouse"));
    command.env_remove("GROUSE_BACKEND").args(arguments);
    if let Some(backend) = backend {
        command.env("GROUSE_BACKEND", backend);
    }
    command.output().unwrap()
}

/// A small packed model in `dir`.
fn packed(dir: &Path) -> PathBuf {
    let shape = Shape::default();
    random_bert::write(&dir.join("model"), &shape, 1);
    let model = grouse::import::load_dir(&dir.join("model")).unwrap();
    let file = dir.join("model.grouse");
    std::fs::write(&file, pack(&model, DataType::I8, &[vec![1, 2, 3, 4, 5]])).unwrap();
    file
}

#[test]
fn bad_input_has_its_exit_code_and_names_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path());
    let file = file.to_str().unwrap();
    let check = |arguments: &[&str], code: i32, cause: &str| {
        let output = grouse(arguments, None);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(cause), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty());
    };
    check(&["embed", file, "a", "--backend", "no-such"], 1, "there is no backend \"no-such\"");
    check(&["bench", file, "--backend", "no-such"], 1, "there is no backend \"no-such\"");
    check(&["embed", file, "a", "--accelerator", "abacus"], 1, "no fault called \"abacus\"");
    check(&["embed", file, "a", "--accelerator", "deaf", "--threads", "2"], 2, "--threads");
    check(&["embed", file, "a", "--threads", "0"], 2, "--threads");
    check(&["bench", file, "--threads", "0"], 2, "--threads");
    check(&["bench", file, "--batch", "0"], 2, "--batch");
    check(&["bench", file, "--seq", "16,x"], 2, "--seq");
    check(&["bench", file, "--seq", "16,100000"], 1, "100000");
    check(&["bench", file, "--seq", "1"], 1, "tokens, not 1");
    check(&["inspect"], 2, "<FILE>");
    check(&["inspect", "/no/such/file"], 1, "/no/such/file");
    for entry in kernels::entries().iter().filter(|entry| (entry.detect)().is_none()) {
        check(&["embed", file, "a", "--backend", entry.name], 1, "this processor cannot run");
    }
}

#[test]
fn an_accelerator_does_not_show_in_the_answers() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path());
    let file = file.to_str().unwrap();
    let want = grouse(&["embed", file, "a bird"], None).stdout;
    assert!(!want.is_empty());
    for (name, note) in [
        ("model", "0 on the CPU; 0 refused, 0 failed\n"),
        ("busy-for-ever", "3 failed (time-out 3); it was switched off"),
        ("another-device", "no accelerator answers"),
    ] {
        let output = grouse(&["embed", file, "a bird", "--accelerator", name], None);
        assert!(output.stdout == want, "{name}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(note), "{name}: {said}");
    }
}

#[test]
fn the_processor_is_shown_without_a_file_and_the_variable_is_honoured() {
    let json = |backend| {
        let output = grouse(&["inspect", "--cpu", "--json"], backend);
        assert!(output.status.success());
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let report = json(None);
    assert_eq!(report["chosen"], kernels::default().name());
    assert_eq!(report["backends"].as_array().unwrap().len(), kernels::entries().len());
    let report = json(Some("scalar"));
    assert_eq!(report["chosen"], "scalar");
    assert!(report["reason"].as_str().unwrap().contains("GROUSE_BACKEND"));
    assert_eq!(grouse(&["inspect", "--cpu"], Some("no-such")).status.code(), Some(1));
}

#[test]
fn threads_do_not_show_in_the_answers() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path());
    let texts: String = (0..50).map(|i| "a b c ".repeat(i % 11) + "\n").collect();
    let input = dir.path().join("texts");
    std::fs::write(&input, texts).unwrap();
    let run = |threads: &str| {
        let (file, input) = (file.to_str().unwrap(), input.to_str().unwrap());
        let output = grouse(&["embed", file, "--input", input, "--threads", threads], None);
        assert!(output.status.success());
        output.stdout
    };
    let one = run("1");
    assert_eq!(one.iter().filter(|byte| **byte == b'\n').count(), 50);
    for threads in ["2", "3", "8"] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_bench_reports_each_shape() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path());
    let file = file.to_str().unwrap();
    let output = grouse(&["bench", file, "--seq", "4,8", "--threads", "2", "--json"], None);
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["threads"], &report["backend"]),
        (&2.into(), &kernels::default().name().into())
    );
    let shapes = report["shapes"].as_array().unwrap();
    assert_eq!(shapes.iter().map(|s| s["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 8]);
    for shape in shapes {
        let [p10, median, p90] =
            ["p10_ms", "median_ms", "p90_ms"].map(|k| shape[k].as_f64().unwrap());
        assert!(0.0 < p10 && p10 <= median && median <= p90);
        assert!(shape["repetitions"].as_u64().unwrap() >= 20);
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path());
    let file = file.to_str().unwrap();
    for arguments in
        [&["inspect", file][..], &["inspect", file, "--json"], &["embed", file, "a"], &["boards"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_grouse"));
        command.args(arguments).stdout(writer).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

/// The page of a packed file stands alone.
#[test]
fn inspect_writes_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path());
    let page = dir.path().join("page.html");
    let arguments = ["inspect", file.to_str().unwrap(), "--html", page.to_str().unwrap()];
    assert!(grouse(&arguments, None).status.success());
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    for part in ["TOKN", "EMBD", "TEST", "attention.output", "word pieces", "at least"] {
        assert!(page.contains(part), "{part}");
    }
    // Nothing is fetched.
    assert!(!page.contains("http") && !page.contains("src="));
    let nowhere = dir.path().join("no/such/page.html");
    let arguments = ["inspect", file.to_str().unwrap(), "--html", nowhere.to_str().unwrap()];
    assert_eq!(grouse(&arguments, None).status.code(), Some(1));
}

/// What pruning cannot do is said before the work, in words that name the remedy, and nothing is
/// written.
#[test]
fn pruning_refuses_at_once() {
    let dir = tempfile::tempdir().unwrap();
    random_bert::write(&dir.path().join("model"), &Shape::default(), 1);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, out) = (at("model"), at("out"));
    std::fs::write(at("file"), "").unwrap();
    std::fs::write(at("binary"), [0, 159, 146, 150]).unwrap();
    let check = |out: &str, arguments: &[&str], code: i32, cause: &str| {
        let output = grouse(&[&["prune", &model, "-o", out], arguments].concat(), None);
        let message = String::from_utf8(output.stderr).unwrap();
        // Lines are wrapped where the terminal ends.
        let words = message.split_whitespace().filter(|word| *word != "│");
        let message = words.collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(cause), "{arguments:?}: {message}");
        assert!(!message.contains("calibrate:"), "{arguments:?}: {message}");
        assert!(!Path::new(out).exists());
    };
    check(&out, &["--density", "-0.2"], 2, "'--density <D>': give a number from 0 to 1");
    check(&out, &["--density", "0"], 1, "not above 0");
    check(&out, &["--macs", "0"], 1, "0 multiply-accumulates: nothing would be left");
    check(&out, &["--macs", "99000000000"], 1, "there is nothing to prune");
    check(&out, &["--bytes", "10"], 1, "embeddings and tokenizer alone take");
    check(&out, &["--bytes", "99000000000"], 1, "there is nothing to prune");
    check(&out, &["--calib", &at("file")], 1, "0 lines of text");
    check(&out, &["--calib", &at("binary")], 1, "is a binary file");
    check(&format!("{}/out", at("file")), &[], 1, "create a directory in");
}

/// `grouse classify`: the label is that of the head's largest output on the embedding that `embed` gives.
#[test]
fn a_head_gives_labels() {
    let dir = tempfile::tempdir().unwrap();
    let file = packed(dir.path());
    let file = file.to_str().unwrap();
    let texts = ["the man", "a dog in the cafe", ""];
    let lines = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let output = grouse(arguments, None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let embeddings: Vec<Vec<f64>> = lines(&[&["embed", file][..], &texts].concat())
        .iter()
        .map(|line| serde_json::from_value(line["embedding"].clone()).unwrap())
        .collect();
    // A class for each of the first two texts: its own embedding.
    let head = serde_json::json!({"fine_tune": {"head": {
        "classes": ["person", "animal"], "weight": embeddings[..2], "bias": [0.0, 0.0],
    }}});
    let json = dir.path().join("grouse.json");
    std::fs::write(&json, head.to_string()).unwrap();
    let json = json.to_str().unwrap();
    let found = lines(&[&["classify", file, "--head", json][..], &texts].concat());
    for ((text, embedding), line) in texts.iter().zip(&embeddings).zip(&found) {
        let output = |class: usize| -> f64 {
            embeddings[class].iter().zip(embedding).map(|(a, b)| a * b).sum()
        };
        let (person, animal) = (output(0), output(1));
        let expected = if person > animal { "person" } else { "animal" };
        assert_eq!((line["text"].as_str(), line["label"].as_str()), (Some(*text), Some(expected)));
        let score = line["scores"]["person"].as_f64().unwrap();
        assert!((score - 1.0 / (1.0 + (animal - person).exp())).abs() < 1e-5, "{line}");
    }
    assert_eq!(found.len(), 3);
    assert_eq!([&found[0]["label"], &found[1]["label"]], ["person", "animal"]);
    let refused = grouse(&["classify", file, "--head", "no-such", "a"], None);
    assert_eq!(refused.status.code(), Some(1));
}

/// `grouse prune --flash`: the packed file fits, whatever the room, and says what was done.
#[test]
fn a_model_shrinks_to_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { vocab: 1_500, hidden: 64, heads: 4, intermediate: 256, ..Shape::default() };
    let model = dir.path().join("model");
    random_bert::write(&model, &shape, 5);
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "the man and the dog in the cafe\n".repeat(20)).unwrap();
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let page = dir.path().join("report.html");
    let run = |flash: &str, more: &[&str]| {
        let mut arguments = vec!["prune", model, "-o", out, "--flash", flash, "--tokens", "32"];
        arguments.extend(["--vocab-from", text, "--json"]);
        arguments.extend(["--report", page.to_str().unwrap()]);
        arguments.extend(more);
        grouse(&arguments, None)
    };
    // Dense in int8, dense in int4, and less than that.
    let mut last = (16, 1.01, 2_000);
    for flash in ["400000", "140000", "90000"] {
        let output = run(flash, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let choice = &report["device"]["choice"];
        let bytes = std::fs::metadata(format!("{out}.grouse")).unwrap().len();
        assert_eq!(report["packed"]["bytes"], bytes);
        assert!(bytes <= flash.parse().unwrap(), "{bytes} in {flash}: {said}");
        let bits = |what: &str| choice[what].as_i64().unwrap();
        let bits = bits("weight_bits") + bits("table_bits");
        let density = choice["density"].as_f64().unwrap();
        let pieces = choice["vocabulary"].as_u64().unwrap_or(1_500);
        assert!(bits <= last.0 && density <= last.1 && pieces <= last.2, "{choice}");
        last = (bits, density, pieces);
        if flash == "90000" {
            assert!(density < 1.0, "{choice}");
        }
        assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));
        let tested = grouse(&["self-test", &format!("{out}.grouse")], None);
        assert!(tested.status.success());
        let tokenized = grouse(&["tokenize", &format!("{out}.grouse"), "the man"], None);
        assert!(tokenized.status.success());
    }
    // Enough flash for all of it, and less and less time, by the board's cost figures.
    let timed = |milliseconds: f64| {
        let limit = milliseconds.to_string();
        let output = run("400000", &["--board", "pico2", "--latency", &limit]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let took = report["packed"]["estimated_milliseconds"].as_f64().unwrap();
        assert!(took <= milliseconds, "{took} of {milliseconds}");
        (took, report["device"]["choice"]["density"].as_f64().unwrap())
    };
    let (whole, density) = timed(1e6);
    assert_eq!(density, 1.0);
    for part in [0.95, 0.85] {
        let (took, density) = timed(whole * part);
        assert!(took > 0.97 * whole * part && density < 1.0, "{took} of {whole} × {part}");
    }
    for (flash, more, cause) in [
        ("400000", &["--board", "pico2", "--latency", "0.01"][..], "takes at least"),
        ("400000", &["--board", "linux-a53", "--latency", "9"], "no figures"),
        ("400000", &["--latency", "9"], "--board"),
        ("9000", &[], "does not fit 9000 bytes"),
        ("140000", &["--ram", "9000"], "bytes of RAM"),
        ("140000", &["--density", "0.5"], "--density"),
        ("140000", &["--board", "no-such"], "no-such"),
    ] {
        let output = run(flash, more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_ne!(output.status.code(), Some(0));
        assert!(said.contains(cause), "{said}");
    }
}
