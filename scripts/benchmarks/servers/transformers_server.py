"""`transformers serve` with continuous batching, as large a batch as ours has."""

import os
import sys
from pathlib import Path

MODEL = Path(__file__).parents[3] / "workflows/demo/tiny_gpt"

os.environ.pop("OMP_NUM_THREADS", None)  # both cores, as ours has
# Its list of models is an error where there is no cache.
home = Path(os.environ["BENCH_SCRATCH"])
(home / "hub").mkdir(parents=True, exist_ok=True)
os.environ["HF_HOME"] = str(home)
program = str(Path(sys.executable).with_name("transformers"))
options = ["--host", "127.0.0.1", "--port", os.environ["BENCH_PORT"], "--device", "cpu", "--model-timeout", "-1"]
options += ["--dtype", "float32"]  # as ours has it on a CPU
options += ["--continuous-batching", "--cb-num-blocks", "256", "--cb-block-size", "64", "--cb-max-batch-tokens", "1024"]
os.execv(program, [program, "serve", str(MODEL), *options])
