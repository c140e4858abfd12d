"""Times `attn_demo embed` beside transformers: python apps/bench_embed.py MODEL_DIR [ATTN_DEMO]

MODEL_DIR is a sentence encoder with mean pooling, such as all-MiniLM-L6-v2; ATTN_DEMO is
build/release/attn_demo if it is not given. Both embed the same 64 sentences of 5 to 100 words, from
text to normalized vectors, in f32 with two threads. transformers gets them as one padded batch.
attn_demo is a program that first opens the model: its time is the difference between runs of
5 x 64 and of 64 sentences. Runs alternate, and each time is the best of several.
"""

import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
SENTENCES, REPEATED, THREADS, ROUNDS = 64, 5, 2, 7


def sentences():
    words = [word for word in (ROOT / "README.md").read_text().split() if word.isalpha()]
    chosen = random.Random(3)
    return [" ".join(chosen.choices(words, k=chosen.randint(5, 100))) for _ in range(SENTENCES)]


class Transformers:
    def __init__(self, folder):
        torch.set_num_threads(THREADS)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def __call__(self, texts):
        with torch.inference_mode():
            batch = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            states = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(mean, dim=1).numpy()


class AttnDemo:
    def __init__(self, program, folder, out):
        self.command = [program, "embed", "--model", folder, "--dtype", "f32"]
        self.command += ["--threads", str(THREADS), "--out", out]
        self.out = out

    def __call__(self, texts):
        subprocess.run(self.command + [f"--text={text}" for text in texts], check=True)
        return np.load(self.out)


def seconds(call, texts):
    start = time.perf_counter()
    call(texts)
    return time.perf_counter() - start


def main():
    folder = sys.argv[1]
    program = sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "build/release/attn_demo")
    texts = sentences()
    with tempfile.TemporaryDirectory() as scratch:
        attn, peer = AttnDemo(program, folder, f"{scratch}/vectors.npy"), Transformers(folder)
        print(f"greatest difference of vectors: {np.abs(attn(texts) - peer(texts)).max():.1e}")
        once, more, padded = [], [], []
        for _ in range(ROUNDS):
            padded.append(seconds(peer, texts))
            once.append(seconds(attn, texts))
            more.append(seconds(attn, texts * REPEATED))
    per_batch = (min(more) - min(once)) / (REPEATED - 1)
    for name, time_of_batch in [("transformers", min(padded)), ("attn_demo", per_batch)]:
        print(f"{name:13s} {SENTENCES / time_of_batch:7.0f} sentences a second")
    print(f"{'ratio':13s} {min(padded) / per_batch:7.2f}")


main()
