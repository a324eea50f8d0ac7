"""The measured engines as a Markdown table and as raw JSON."""

import json
import re
from pathlib import Path
from statistics import mean, median

BASE = "OpenVINO static QDQ int8"
BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"


def milliseconds(engine, case) -> float:
    """The median over all samples."""
    return median(ms for samples in engine.samples[case] for ms in samples)


def ratio(engine, base, case) -> float:
    """The median over the passes of the ratio of the two engines' medians in one pass: what slows
    the whole machine down for a while weighs on both."""
    pairs = zip(engine.samples[case], base.samples[case], strict=True)
    return median(median(ours) / median(theirs) for ours, theirs in pairs)


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _distance(engine) -> str:
    if not engine.distances:
        return "–"
    # Below the rounding of f32 a difference says nothing.
    show = lambda d: f"{d:.1e}" if d >= 1e-7 else "< 1e-7"
    return f"{show(mean(engine.distances))} ({show(max(engine.distances))})"


def table(engines, cases, peaks, machine, passes) -> str:
    """The table with its conditions, in Markdown."""
    base = next((e for e in engines if e.name == BASE and e.samples), None)
    names = [f"{c} tokens" if "×" not in c else c for c in cases]
    lines = [
        f"{machine['model_name']}, one core, one thread; {machine['date']}, commit "
        f"{machine['commit']}. Median ms of one inference over {passes} interleaved passes"
        + (f", and × the time of {BASE} in the same pass. " if base else ". ")
        + f"1 − cos: to {machine['reference']}, {machine['texts']} texts.",
        "",
        "| engine | " + " | ".join(names) + " | 1 − cos mean (worst) | peak memory MB |",
        "| --- |" + " ---: |" * (len(cases) + 2),
    ]
    for engine in engines:
        if not engine.samples:
            continue
        cells = []
        for case in cases:
            cell = _digits(milliseconds(engine, case))
            if base:
                cell += f" ({ratio(engine, base, case):.2f}×)"
            cells.append(cell)
        cells += [_distance(engine), f"{engine.peak_mb:.0f}"]
        lines.append(f"| {engine.name} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, unit in (("f32", "GFLOP/s of f32 multiply-adds"), ("int8", "GOP/s of VPDPBUSD")):
        rates = peaks.get(name, [])
        if rates:
            lines.append(
                f"- This core's peak, in the same run: {max(rates):.0f} {unit} "
                f"(median {median(rates):.0f}); a multiply-accumulate is two operations."
            )
    return "\n".join(lines).rstrip() + "\n"


def raw(engines, peaks, machine) -> str:
    """Everything that was measured, as JSON."""
    document = {
        "machine": machine,
        "peaks": peaks,
        "engines": [
            {
                "name": e.name,
                "milliseconds": e.samples,
                "distances": e.distances,
                "peak_mb": e.peak_mb,
            }
            for e in engines
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def insert(path: Path, text: str):
    """Replaces what stands between the two markers of `path`."""
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise SystemExit(f"error: {path} needs one line {BEGIN} and after it one line {END}")
    pattern = re.escape(BEGIN) + ".*" + re.escape(END)
    page = re.sub(pattern, lambda _: f"{BEGIN}\n{text}{END}", page, flags=re.DOTALL)
    beside = path.with_name(path.name + ".new")
    beside.write_text(page)
    beside.replace(path)
