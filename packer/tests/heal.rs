//! Healing on tiny random models: the tape against our own forward pass, the mask, reproducibility,
//! stopping and resuming, tasks, and the program.

use std::cell::Cell;
use std::path::Path;

use grouse::forward::{self, Batch};
use grouse::heal::student::{Student, summed_embeddings};
use grouse::heal::text::Text;
use grouse::heal::{self, Options};
use grouse::model::{DenseModel, Layer, Pooling};
use grouse::{import, prune};
use grouse_tests::random_bert::{self, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn model(dir: &Path, shape: &Shape) -> DenseModel {
    random_bert::write(dir, shape, 1);
    import::load_dir(dir).unwrap()
}

fn sentences(shape: &Shape, count: usize) -> Vec<Vec<u32>> {
    let mut random = StdRng::seed_from_u64(9);
    let mut word = || random.random_range(5..shape.vocab as u32);
    (0..count)
        .map(|n| {
            let words = (0..3 + n % 9).map(|_| word());
            std::iter::once(2).chain(words).chain([3]).collect()
        })
        .collect()
}

/// A dense model, the same pruned to a quarter, and text.
fn pair(dir: &Path) -> (DenseModel, DenseModel, Text) {
    let shape = Shape { hidden: 64, intermediate: 128, ..Shape::default() };
    let dense = model(&dir.join("dense"), &shape);
    let all = sentences(&shape, 300);
    let mut pruned = dense.clone();
    // Without the last fit, which on such text would leave healing nothing to do.
    let steps = prune::Steps { sequential: false, ..prune::Steps::default() };
    let options = prune::Options { density: 0.4, steps, ..prune::Options::default() };
    prune::prune(&mut pruned, &all, &options).unwrap();
    (dense, pruned, Text::split(all).unwrap())
}

fn options(steps: u32) -> Options {
    Options {
        steps,
        sentences: 8,
        rate: 2e-3,
        seed: 0,
        int8: false,
        refit: 0.0,
        blend: 1.0,
        checkpoint: None,
        resume: false,
    }
}

fn weights(model: &DenseModel) -> Vec<&[f32]> {
    model.layers.iter().flat_map(Layer::linears).map(|(_, l)| l.weight.data.as_slice()).collect()
}

#[test]
fn a_blend_is_the_average_of_before_and_after() {
    let root = tempfile::tempdir().unwrap();
    let (dense, pruned, text) = pair(root.path());
    let healed = |blend: f64| {
        let mut model = pruned.clone();
        let options = Options { blend, ..options(100) };
        heal::heal(&dense, &mut model, &text, &options, &|| false).unwrap();
        model
    };
    let (whole, half) = (healed(1.0), healed(0.5));
    assert!(weights(&whole) != weights(&pruned));
    let ends = weights(&pruned).concat().into_iter().zip(weights(&whole).concat());
    for ((before, after), half) in ends.zip(weights(&half).concat()) {
        assert!((half - (before + after) / 2.0).abs() < 1e-6, "{before} {after} {half}");
    }
    let options = Options { blend: 0.0, ..options(20) };
    assert!(heal::heal(&dense, &mut pruned.clone(), &text, &options, &|| false).is_err());
}

/// The fit before the first step brings the states nearer to the dense model's, and changes no zero.
#[test]
fn the_fit_before_training_helps() {
    let root = tempfile::tempdir().unwrap();
    let (dense, pruned, text) = pair(root.path());
    let mut fitted = pruned.clone();
    prune::sequential::refit(&dense, &mut fitted, &text.train, 1.0).unwrap();
    let zeros = |model: &DenseModel| weights(model).concat().iter().map(|w| *w == 0.0).collect();
    let (before, after): (Vec<bool>, Vec<bool>) = (zeros(&pruned), zeros(&fitted));
    assert_eq!(before, after);
    let off = |model: &DenseModel| -> f64 {
        let batch = Batch::new(&dense.config, &text.held_out).unwrap();
        let [now, wanted] = [model, &dense].map(|m| forward::run(m, &batch, |_, _, _| {}));
        now.data.iter().zip(&wanted.data).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    assert!(off(&fitted) < 0.9 * off(&pruned), "{} {}", off(&fitted), off(&pruned));

    // Healing begins with it.
    let mut healed = pruned.clone();
    let options = Options { refit: 1.0, rate: 1e-9, ..options(1) };
    heal::heal(&dense, &mut healed, &text, &options, &|| false).unwrap();
    assert!(off(&healed) < 0.9 * off(&pruned));
    let options = Options { refit: 1.5, ..options };
    assert!(heal::heal(&dense, &mut healed, &text, &options, &|| false).is_err());
}

#[test]
fn the_tape_computes_what_the_forward_pass_does() {
    for (activation, pooling) in
        [("gelu", Pooling::Mean), ("gelu_new", Pooling::Cls), ("relu", Pooling::Mean)]
    {
        let root = tempfile::tempdir().unwrap();
        let shape =
            Shape { hidden: 45, heads: 3, intermediate: 101, activation, ..Shape::default() };
        let mut dense = model(&root.path().join("dense"), &shape);
        dense.pooling = pooling;
        // Holes here and there, so that groups and masks are met too.
        for (_, linear) in dense.layers.iter_mut().flat_map(Layer::linears_mut) {
            let cols = linear.weight.cols;
            for (at, weight) in linear.weight.data.iter_mut().enumerate() {
                if (at % cols) % 3 == (at / cols) % 2 || at % 97 == 0 {
                    *weight = 0.0;
                }
            }
        }
        let some = sentences(&shape, 20);
        let batch = Batch::new(&dense.config, &some).unwrap();
        let student = Student::new(&dense, false).unwrap();
        let pass = student.run(&batch, &summed_embeddings(&dense, &batch).unwrap()).unwrap();
        let wanted = forward::embed_all(&dense, &some).unwrap();
        let got = pass.embeddings.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (got, wanted) in got.iter().zip(&wanted.data) {
            assert!((got - wanted).abs() < 2e-5, "{activation}: {got} for {wanted}");
        }
        // Nothing trained, nothing changed.
        let mut back = dense.clone();
        student.write_to(&mut back).unwrap();
        assert_eq!(weights(&back), weights(&dense));
    }
}

#[test]
fn agreement_rises_and_the_mask_is_held() {
    let root = tempfile::tempdir().unwrap();
    let (dense, pruned, text) = pair(root.path());
    for int8 in [false, true] {
        let mut healed = pruned.clone();
        let options = Options { int8, ..options(100) };
        let report = heal::heal(&dense, &mut healed, &text, &options, &|| false).unwrap();
        assert_eq!(report.done, 100);
        assert!(report.best > report.before + 1.0, "{} → {}", report.before, report.best);
        let losses: Vec<f64> = report.curve.iter().filter_map(|point| point.loss).collect();
        assert!(losses.last() < losses.first(), "{losses:?}");
        assert_ne!(weights(&healed), weights(&pruned));
        for (before, after) in weights(&pruned).into_iter().zip(weights(&healed)) {
            for (before, after) in before.iter().zip(after) {
                assert_eq!(*before == 0.0, *after == 0.0);
            }
        }
        assert_eq!(healed.embeddings.word, dense.embeddings.word);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let root = tempfile::tempdir().unwrap();
    let (dense, pruned, text) = pair(root.path());
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut healed = pruned.clone();
        pool.install(|| heal::heal(&dense, &mut healed, &text, &options(30), &|| false).unwrap());
        healed
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(weights(&one), weights(&three));
    assert_eq!(one.layers[1].ffn_norm, three.layers[1].ffn_norm);
}

#[test]
fn stopped_and_resumed_is_the_same_as_uninterrupted() {
    let root = tempfile::tempdir().unwrap();
    let (dense, pruned, text) = pair(root.path());
    let mut whole = pruned.clone();
    heal::heal(&dense, &mut whole, &text, &Options { rate: 5e-4, ..options(80) }, &|| false)
        .unwrap();

    let file = root.path().join("out.heal");
    let keep = Options { checkpoint: Some(file.clone()), rate: 5e-4, ..options(80) };
    let left = Cell::new(37);
    let stop = || {
        left.set(left.get() - 1);
        left.get() == 0
    };
    let mut stopped = pruned.clone();
    let report = heal::heal(&dense, &mut stopped, &text, &keep, &stop).unwrap();
    assert_eq!(report.done, 37);
    assert_ne!(weights(&stopped), weights(&whole));

    let resume = Options { resume: true, ..keep.clone() };
    let mut resumed = pruned.clone();
    let report = heal::heal(&dense, &mut resumed, &text, &resume, &|| false).unwrap();
    assert_eq!(report.done, 80);
    assert_eq!(weights(&resumed), weights(&whole));
    assert_eq!(resumed.embeddings.norm, whole.embeddings.norm);

    // Another run's checkpoint, a damaged one, and none are refused by name.
    let refused = |options: &Options| {
        let error = heal::heal(&dense, &mut pruned.clone(), &text, options, &|| false);
        error.unwrap_err().to_string()
    };
    let other = Options { seed: 5, ..resume.clone() };
    assert!(refused(&other).contains("belongs to another"));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(&resume).contains("damaged"));
    std::fs::remove_file(&file).unwrap();
    assert!(refused(&resume).contains("nothing to resume"));
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_stop_the_run() {
    let root = tempfile::tempdir().unwrap();
    let (dense, mut pruned, text) = pair(root.path());
    std::fs::write(root.path().join("file"), "in the way").unwrap();
    let checkpoint = Some(root.path().join("file").join("out.heal"));
    let options = Options { checkpoint, ..options(5) };
    assert_eq!(heal::heal(&dense, &mut pruned, &text, &options, &|| false).unwrap().done, 5);
}

#[test]
fn models_that_do_not_belong_together_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (dense, pruned, text) = pair(root.path());
    let refused = |dense: &DenseModel| {
        let error = heal::heal(dense, &mut pruned.clone(), &text, &options(5), &|| false);
        error.unwrap_err().to_string()
    };
    let mut other = dense.clone();
    other.embeddings.word.data[0] += 1.0;
    assert!(refused(&other).contains("embedding tables"));
    other.config.layers = 1;
    assert!(refused(&other).contains("shape"));
}

mod tasks {
    use grouse::heal::task::Task;

    use super::*;

    #[test]
    fn a_classifier_learns_which_word_is_in_a_sentence() {
        let root = tempfile::tempdir().unwrap();
        let (_, mut pruned, _) = pair(root.path());
        let file = root.path().join("train.tsv");
        let lines = (0..200).map(|n| match n % 2 {
            0 => format!("a\tthe man {n}\n"),
            _ => format!("b\tthe dog {n}\n"),
        });
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        let task = Task::classify(&pruned, &file).unwrap();
        let before = pruned.clone();
        let (report, head) = heal::fine_tune(&mut pruned, &task, &options(100), &|| false).unwrap();
        assert!(report.best > 95.0, "{}", report.best);
        let head = head.unwrap();
        assert_eq!(head.classes, ["a", "b"]);
        // The head that is written classifies.
        for (class, text) in task_examples(&task) {
            let embedding = forward::embed(&pruned, text).unwrap();
            let output = |c: usize| -> f32 {
                let row = head.weight[c].iter().zip(&embedding);
                row.map(|(w, x)| w * x).sum::<f32>() + head.bias[c]
            };
            assert_eq!(u32::from(output(1) > output(0)), class);
        }
        for (before, after) in weights(&before).into_iter().zip(weights(&pruned)) {
            assert!(before.iter().zip(after).all(|(b, a)| (*b == 0.0) == (*a == 0.0)));
        }
    }

    fn task_examples(task: &Task) -> Vec<(u32, &[u32])> {
        let Task::Classify { examples, .. } = task else { panic!("not a classifier") };
        examples.iter().take(20).map(|(ids, class)| (*class, ids.as_slice())).collect()
    }

    #[test]
    fn pairs_learn_their_scores() {
        let root = tempfile::tempdir().unwrap();
        let (_, mut pruned, _) = pair(root.path());
        let file = root.path().join("sts.csv");
        // Alike when the first words are.
        let lines = (0..200).map(|n| {
            let (a, b) = (["man", "dog"][n % 2], ["man", "dog"][n / 2 % 2]);
            let score = if a == b { 5 } else { 1 };
            format!("g\tf\ty\t{n}\t{score}\t{a} {n}\t{b} {}\n", n * 7 % 100)
        });
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        let task = Task::sts(&pruned, &file).unwrap();
        let (report, head) = heal::fine_tune(&mut pruned, &task, &options(100), &|| false).unwrap();
        assert!(report.best > report.before && report.best > 60.0, "{}", report.best);
        assert_eq!(head, None);
    }

    #[test]
    fn bad_labels_are_named() {
        let root = tempfile::tempdir().unwrap();
        let (_, pruned, _) = pair(root.path());
        let file = root.path().join("train");
        let said = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Task::classify(&pruned, &file).unwrap_err().to_string()
        };
        assert!(said("a b\n").contains("line 1: no TAB"));
        assert!(said("a\tb\n").contains("1 examples"));
        assert!(said(&"a\tb\n".repeat(50)).contains("1 classes"));
        std::fs::write(&file, "g\tf\ty\t1\t2.0\ta\tb\n".repeat(50)).unwrap();
        assert!(Task::sts(&pruned, &file).unwrap_err().to_string().contains("scores from 2 to 2"));
    }
}

fn grouse(dir: &Path, line: &str) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_grouse"));
    command.current_dir(dir).args(line.split(' '));
    command
}

/// Pruning, healing and fine-tuning in one command, and what is left on disk.
#[test]
fn prune_heals_and_cleans_up() {
    let root = tempfile::tempdir().unwrap();
    let shape = Shape { hidden: 64, intermediate: 128, ..Shape::default() };
    random_bert::write(&root.path().join("dense"), &shape, 1);
    let labels = "a\tthe man\nb\tthe dog\n".repeat(50);
    std::fs::write(root.path().join("labels"), labels).unwrap();
    let run = |rest: &str| {
        let line = format!("prune dense -o out --density 0.4 --heal 30 --heal-batch 4 {rest}");
        grouse(root.path(), &line).output().unwrap()
    };
    let output = run("--task classify --train labels --task-steps 20 --json");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["heal"]["report"]["done"], 30);
    assert_eq!(record["fine_tune"]["report"]["done"], 20);
    assert_eq!(record["fine_tune"]["head"]["classes"].as_array().unwrap().len(), 2);
    let healed = import::load_dir(&root.path().join("out")).unwrap();
    let (kept, all) = healed.encoder_weights();
    let density = record["pruning"]["density"].as_f64().unwrap();
    assert!((kept as f64 / all as f64 - density).abs() < 1e-9);
    let left = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name());
    let mut left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["dense", "labels", "out"]);
    // What cannot be done is said before anything is written.
    let refused = run("--resume");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("nothing to resume"), "{said}");
    let refused = run("--heal-text no-such-file");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no-such-file"));
    assert_eq!(run("--task sts").status.code(), Some(2));
}

/// The program, sent an interrupt in the middle of a long run.
#[cfg(unix)]
#[test]
fn an_interrupt_keeps_the_best_so_far() {
    use std::process::{Command, Stdio};

    let root = tempfile::tempdir().unwrap();
    let shape = Shape { hidden: 64, intermediate: 128, ..Shape::default() };
    random_bert::write(&root.path().join("dense"), &shape, 1);
    let grouse = |line: &str| {
        let mut command = grouse(root.path(), line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let pruned = grouse("prune dense -o pruned --density 0.4").wait_with_output().unwrap();
    assert!(pruned.status.success(), "{}", String::from_utf8_lossy(&pruned.stderr));
    let run = grouse("heal pruned --teacher dense -o out --steps 1000000 --heal-batch 4 --json");
    let kept = root.path().join("out.heal");
    let started = std::time::Instant::now();
    while !kept.is_file() {
        assert!(started.elapsed().as_secs() < 300, "no checkpoint");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let sent = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("stopped after step") && said.contains("--resume"), "{said}");
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(record["heal"]["report"]["done"].as_u64().unwrap() < 1_000_000);
    assert_eq!(import::read_mark(&root.path().join("out")).unwrap(), record);
    import::load_dir(&root.path().join("out")).unwrap();
    assert!(kept.is_file());
}

mod faults {
    use candle_core::Tensor;
    use grouse::Result;
    use grouse::heal::train::{Objective, Schedule, train};

    use super::*;

    /// Pulls the first parameter towards 3; `bad` steps have a loss that is not a number, or
    /// gradients that are not.
    struct Pull {
        bad: fn(u32) -> bool,
        gradient_only: bool,
    }

    impl Objective for Pull {
        fn loss(&self, student: &Student, step: u32) -> Result<Tensor> {
            let away = (student.vars()[0].as_tensor() - 3.0)?;
            let loss = away.sqr()?.sum_all()?;
            if !(self.bad)(step) {
                return Ok(loss);
            }
            if self.gradient_only {
                // The slope of a square root is infinite at 0, and one infinity less another is NaN.
                let zero = (&away - away.copy()?)?;
                return Ok((loss + zero.sqrt()?.sum_all()?)?);
            }
            Ok((loss * f64::NAN)?)
        }

        fn score(&self, student: &Student) -> Result<f64> {
            Ok(-f64::from(self.loss(student, u32::MAX)?.to_scalar::<f32>()?))
        }

        fn score_name(&self) -> &'static str {
            "nearness"
        }
    }

    fn run(objective: &Pull) -> Result<grouse::heal::train::Report> {
        let root = tempfile::tempdir().unwrap();
        let dense = model(&root.path().join("dense"), &Shape::default());
        let student = Student::new(&dense, false)?;
        let schedule = Schedule { name: "heal", steps: 100, rate: 0.05, judge_every: 10 };
        let report = train((&student, &[]), objective, &schedule, None, &|| false)?;
        for var in student.vars() {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            assert!(values.iter().all(|v| v.is_finite()));
        }
        Ok(report)
    }

    #[test]
    fn a_step_that_is_not_a_number_is_taken_back_at_half_the_rate() {
        for gradient_only in [false, true] {
            let bad = |step| step == 33 || step == 57;
            let report = run(&Pull { bad, gradient_only }).unwrap();
            assert_eq!((report.done, report.halvings), (100, 2));
            assert!(report.best > 0.1 * report.before, "{} → {}", report.before, report.best);
        }
    }

    #[test]
    fn nothing_but_such_steps_is_an_error() {
        let error = run(&Pull { bad: |step| step < 100, gradient_only: false }).unwrap_err();
        assert!(error.to_string().contains("not a number, whatever the rate"), "{error}");
    }
}
