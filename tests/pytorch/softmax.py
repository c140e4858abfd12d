"""Times PyTorch's softmax, log_softmax and cross_entropy on the shapes of `attn_bench softmax`, whose peer it is.

    python3 tests/pytorch/softmax.py [--threads 2] [--min-time 1]

Needs python3 with torch 2 or newer. Median milliseconds a call; softmax and log_softmax write to memory that is there (out=).
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

SHAPES = [(10000, 64), (1000, 1000), (128, 4096), (32, 32000), (4, 1000000), (4096, 32768)]


def median_ms(call, min_time):
    call()
    times = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < min_time:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def row(name, call, min_time):
    print(f"{name:40}{median_ms(call, min_time):10.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="PyTorch's softmax family, timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--min-time", type=float, default=1.0, help="seconds a row")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.threads} threads; median ms")
    with torch.inference_mode():
        for rows, columns in SHAPES:
            x = torch.randn(rows, columns)
            y = torch.empty_like(x)
            target = torch.arange(rows) * 7919 % columns
            shape = f"{rows} x {columns}"
            row(f"softmax {shape}", lambda: torch.softmax(x, 1, out=y), arguments.min_time)
            row(f"log_softmax {shape}", lambda: torch.log_softmax(x, 1, out=y), arguments.min_time)
            row(
                f"cross_entropy {shape}",
                lambda: F.cross_entropy(x, target, reduction="none"),
                arguments.min_time,
            )
        for rows, columns in [(1000, 1000), (4096, 4096)]:
            x = torch.randn(rows, columns)
            y = torch.empty_like(x)
            row(
                f"softmax {rows} x {columns}, dim 0",
                lambda: torch.softmax(x, 0, out=y),
                arguments.min_time,
            )
        for rows, columns in [(1000, 1000), (4096, 32768)]:
            x = torch.randn(rows, columns, dtype=torch.bfloat16)
            y = torch.empty_like(x)
            row(
                f"softmax {rows} x {columns}, bf16",
                lambda: torch.softmax(x, 1, out=y),
                arguments.min_time,
            )


if __name__ == "__main__":
    main()
