"""One parser under coverage-guided bytes: `python -m tests.fuzz.parsers NAME SECONDS SEED`.

A process a target, for libFuzzer leaves by itself. What it found is printed in hexadecimal, to become a seed.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ytdl", "yarl", "urllib", "tests.fuzz"]):
    from tests.fuzz.targets import TARGETS

LONGEST = 4096


def main(name: str, seconds: str, seed: str) -> None:
    target = TARGETS[name]

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except BaseException:
            print(f"{name} broke on bytes.fromhex({data.hex()!r})", file=sys.stderr, flush=True)
            raise

    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(target.seeds):
            Path(folder, str(number)).write_bytes(text)
        limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-seed={seed}", "-timeout=10"]
        atheris.Setup([name, *limits, "-print_final_stats=1", f"-artifact_prefix={folder}/", folder], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:4])
