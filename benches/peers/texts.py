"""Token ids: of the timed cases, of the texts that verify, of the sentences that calibrate."""

import json
from pathlib import Path

from tokenizers import Tokenizer

HERE = Path(__file__).parent
# Built in, so that every machine calibrates and times with the same ids.
CALIBRATION = HERE / "../../packer/src/calibration.txt"
LENGTHS = (16, 32, 128)
BATCH = 8


class Texts:
    """The ids of one model's tokenizer."""

    def __init__(self, model_dir: Path):
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)

    def _lines(self, path: Path) -> list[list[int]]:
        lines = (line.strip() for line in path.read_text().splitlines())
        return [self.tokenizer.encode(line).ids for line in lines if line]

    def calibration(self) -> list[list[int]]:
        return self._lines(CALIBRATION)

    def cases(self, batch: bool) -> dict[str, list[list[int]]]:
        """`{"16": [[ids…]], …}`: texts.txt as one text, cut to length between [CLS] and [SEP]."""
        lines = self._lines(HERE / "texts.txt")
        first, last = lines[0][0], lines[0][-1]
        text = [i for line in lines for i in line[1:-1]]
        text *= 2  # The batch's last sentences begin near the end.

        def cut(start, tokens):
            return [first, *text[start : start + tokens - 2], last]

        cases = {str(n): [cut(0, n)] for n in LENGTHS}
        if batch:
            cases[f"{BATCH}×{LENGTHS[-1]}"] = [cut(60 * k, LENGTHS[-1]) for k in range(BATCH)]
        return cases

    def verification(self, golden: Path | None) -> tuple[list[list[int]], list[list[float]] | None]:
        """Ids and, from a golden file (JSON lines `input_ids`, `embedding`), their embeddings."""
        if golden is None:
            return self._lines(HERE / "texts.txt"), None
        rows = [json.loads(line) for line in golden.read_text().splitlines()]
        return [row["input_ids"] for row in rows], [row["embedding"] for row in rows]
