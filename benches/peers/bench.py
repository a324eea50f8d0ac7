"""Times Grouse and its peers in turns on one core; started by `run`, which see."""

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import quantize
import report
from engines import Child, Engine, Failed, build_list, start
from texts import Texts

ROOT = Path(__file__).resolve().parents[2]
DENSITIES = (0.5, 0.25, 0.12)


def arguments():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--bin", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--program", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help="model directory; `grouse pull` when left out")
    parser.add_argument(
        "--grouse",
        action="append",
        default=[],
        metavar="NAME=FILE[:BACKEND]",
        help="a packed file as an engine, as often as wanted; "
        "dense int8 and f32 and densities 0.5, 0.25, 0.12 are packed when left out",
    )
    parser.add_argument("--golden", type=Path, help="JSON lines: input_ids, embedding in f32")
    parser.add_argument("--only", action="append", help="engines whose name contains this")
    parser.add_argument("--batch", action="store_true", help="also 8 sentences of 128 tokens")
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--turn", type=float, default=0.15, help="seconds of an engine's turn")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="put the table into this page")
    args = parser.parse_args()
    args.cache = args.cache.resolve()
    if any("=" not in pair for pair in args.grouse):
        parser.error("--grouse needs NAME=FILE or NAME=FILE:BACKEND")
    if args.passes < 1 or args.turn <= 0:
        parser.error("--passes and --turn must be positive")
    if args.core not in os.sched_getaffinity(0):
        parser.error(f"core {args.core} is not ours; there are {sorted(os.sched_getaffinity(0))}")
    return args


def say(text):
    print(text, file=sys.stderr, flush=True)


def grouse(args, *words) -> str:
    """Standard output of the program grouse."""
    done = subprocess.run([args.program, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: grouse {' '.join(map(str, words))}:\n{done.stderr}")
    return done.stdout.strip()


def packed(args, model: Path) -> dict[str, str]:
    """Packs the default files, anew when the model or the program has changed."""
    weights = (model / "model.safetensors").read_bytes()
    folder = args.cache / f"grouse-{hashlib.sha256(weights).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    program = args.program.stat().st_mtime

    def pack(name: str, weights: str, density: float = 1.0):
        file = folder / f"{weights}-{density}.grouse"
        files[name] = str(file)
        if not (file.exists() and file.stat().st_mtime > program):
            say(f"packing {name}")
            source = model
            if density < 1:
                source = folder / f"pruned-{density}"
                grouse(args, "prune", model, "-o", source, "--density", str(density))
            grouse(args, "pack", source, "-o", file, "--weights", weights, "--embeddings", weights)
        found = json.loads(grouse(args, "inspect", file, "--json"))["density"]
        if abs(found - density) > 0.01:
            raise SystemExit(f"error: {file} has density {found}, not {density}; delete it")

    files = {}
    pack("Grouse int8", "i8")
    for density in DENSITIES:
        pack(f"Grouse int8, density {density}", "i8", density)
    pack("Grouse f32", "f32")
    return files


def verify(engines: list[Engine], args, texts: Texts, files) -> tuple[str, int]:
    """Fills in every engine's 1 − cos to f32; says what the reference is, and how many texts."""
    ids, golden = texts.verification(args.golden)
    cases = {f"text{i}": [sentence] for i, sentence in enumerate(ids)}

    def embed(engine):
        child = start(engine, cases, args, "verification")
        rows = np.array([json.loads(child.ask(f"EMBED {name}")) for name in cases])
        child.close()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    if golden is None:
        script = str(Path(__file__).with_name("serve.py"))
        command = [sys.executable, script, "onnxruntime", str(files["f32"]), "{cases}"]
        reference, source = embed(Engine("reference", command)), "onnxruntime f32"
    else:
        reference, source = np.array(golden), "sentence-transformers f32"
        reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    for engine in list(engines):
        try:
            # Half the squared distance: 1 − cos without its cancellation.
            gaps = ((embed(engine) - reference) ** 2).sum(axis=1) / 2
        except Failed as reason:
            say(f"left out: {engine.name}: {reason}")
            engines.remove(engine)
            continue
        if not np.isfinite(gaps).all():
            raise SystemExit(f"error: {engine.name} answers with what is not a number")
        engine.distances = [float(gap) for gap in gaps]
        say(f"{engine.name}: 1 - cos {gaps.mean():.1e}, at worst {gaps.max():.1e}")
    return source, len(ids)


def turn(engine: Engine, case: str, seconds: float) -> list[float]:
    """Milliseconds of single inferences, after two that bring the weights back into the cache."""
    for _ in range(2):
        engine.child.ask(f"RUN {case}")
    samples, end = [], time.monotonic() + seconds
    while len(samples) < 3 or (time.monotonic() < end and len(samples) < 50):
        samples.append(float(engine.child.ask(f"RUN {case}")))
    return samples


def measure(engines: list[Engine], cases, args) -> dict[str, list[float]]:
    """All engines stay loaded and take turns, each pass beginning with another one."""
    peak = Child([str(args.bin / "peak")], args.core, args.cache / "peak.log")
    for engine in engines:
        engine.child = start(engine, cases, args, "cases")
        engine.samples = {case: [] for case in cases}
    peaks = {"f32": [], "int8": []}
    for number in range(args.passes):
        say(f"pass {number + 1} of {args.passes}")
        for name, rates in peaks.items():
            rate = peak.ask(f"RUN {name}")
            rates.extend([] if rate == "none" else [float(rate)])
        first = number % len(engines)
        for case in cases:
            for engine in engines[first:] + engines[:first]:
                engine.samples[case].append(turn(engine, case, args.turn))
    for engine in engines:
        engine.peak_mb = engine.child.peak_mb()
        engine.child.close()
    peak.close()
    return peaks


def machine() -> dict[str, str]:
    """Where, when and what was measured."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "?")
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    return {"model_name": name, "date": datetime.date.today().isoformat(), "commit": commit}


def main():
    args = arguments()
    model = args.model or Path(grouse(args, "pull"))
    texts = Texts(model)
    say("preparing the ONNX files")
    files = quantize.prepare(model, args.cache, texts.calibration())
    given = dict(pair.split("=", 1) for pair in args.grouse)
    engines = build_list(args, files, model, given or packed(args, model))
    facts = machine()
    facts["reference"], facts["texts"] = verify(engines, args, texts, files)
    if not engines:
        raise SystemExit("error: no engine is left to measure")
    cases = texts.cases(args.batch)
    peaks = measure(engines, cases, args)
    if args.json:
        args.json.write_text(report.raw(engines, peaks, facts))
    text = report.table(engines, list(cases), peaks, facts, args.passes)
    if args.out:
        report.insert(args.out, text)
    print(text, end="")


if __name__ == "__main__":
    try:
        main()
    except Failed as reason:
        raise SystemExit(f"error: an engine ended: {reason}") from None
