"""The engines as child processes pinned to one core, and the texts and files they get."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass
class Engine:
    """What to start, and what came of it."""

    name: str
    command: list[str]
    child: "Child | None" = None
    # case → passes → milliseconds of single inferences
    samples: dict[str, list[list[float]]] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)
    peak_mb: float = 0.0


class Failed(Exception):
    """An engine ended; the message carries the last lines of its standard error."""


class Child:
    """An engine running on `core`, its requests and answers lines on its standard streams."""

    def __init__(self, command: list[str], core: int, log: Path):
        def prepare():
            os.sched_setaffinity(0, {core})
            try:  # Ahead of whatever else the machine does, where that is allowed.
                os.setpriority(os.PRIO_PROCESS, 0, -20)
            except PermissionError:
                pass

        settings = {"RAYON_NUM_THREADS": "1", "RTEN_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        settings["RUST_BACKTRACE"] = "0"  # An error's last lines are its reason.
        self.log = log
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=os.environ | settings,
            preexec_fn=prepare,
        )
        self._read("READY")

    def _read(self, expected=None) -> str:
        line = self.process.stdout.readline().strip()
        if not line or (expected and line != expected):
            self.process.kill()
            self.process.wait()
            raise Failed(" / ".join(self.log.read_text().split("\n")[-6:]).strip() or line)
        return line

    def ask(self, request: str) -> str:
        """The answer to one line."""
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # The end of its output tells the same, with the reason.
        return self._read()

    def peak_mb(self) -> float:
        """The most memory that was resident so far, in 10⁶ bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kib = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
        return int(kib) * 1024 / 1e6

    def close(self):
        """Ends the child."""
        self.process.stdin.close()
        self.process.wait()


def build_list(args, files: dict[str, Path], model: Path, grouse: dict[str, str]) -> list[Engine]:
    """Grouse's files as `name → FILE[:backend]`, then the peers; `{cases}` is filled in later."""
    engines = []
    for name, spec in grouse.items():
        file, backend = spec, "default"
        if not Path(file).exists() and ":" in spec:
            file, backend = spec.rsplit(":", 1)
        if not Path(file).exists():
            raise SystemExit(f"error: {file} does not exist; give --grouse NAME=FILE[:BACKEND]")
        engines.append(Engine(name, [str(args.bin / "grouse-engine"), file, "{cases}", backend]))

    def python(name, kind, file):
        command = [sys.executable, str(HERE / "serve.py"), kind, str(files[file]), "{cases}"]
        engines.append(Engine(name, command))

    def rust(name, program, file):
        engines.append(Engine(name, [str(args.bin / program), str(file), "{cases}"]))

    python("OpenVINO static QDQ int8", "openvino", "static")
    python("OpenVINO static QDQ int8, asymmetric", "openvino", "static_asymmetric")
    python("onnxruntime dynamic int8", "onnxruntime", "fused_dynamic")
    rust("rten int8", "rten", files["dynamic"])
    rust("tract int8", "tract", files["dynamic"])
    python("OpenVINO bf16", "openvino-bf16", "f32")
    python("OpenVINO f32", "openvino", "f32")
    python("onnxruntime f32", "onnxruntime", "fused")
    rust("rten f32", "rten", files["f32"])
    rust("tract f32", "tract", files["f32"])
    rust("candle f32", "candle", model)
    if args.only:
        engines = [e for e in engines if any(part.lower() in e.name.lower() for part in args.only)]
    return engines


def start(engine: Engine, cases: dict[str, list], args, label: str) -> Child:
    """Starts `engine` with `cases`, `{name: [[ids…]…]}`."""
    file = args.cache / f"{label}.json"
    file.write_text(json.dumps(cases))
    command = [part.replace("{cases}", str(file)) for part in engine.command]
    slug = "".join(c if c.isalnum() else "-" for c in engine.name)
    return Child(command, args.core, args.cache / f"{slug}.log")
