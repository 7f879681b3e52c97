#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
`marlin bench` against llama.cpp and ik_llama.cpp: random weights of one shape, measured in turn. For development only.

    bench/compare.py --csv FILE [options]      rows are appended to FILE, then the table of all its rows is printed
    bench/compare.py --csv FILE --report       just the table

  --marlin PATH   the program (build/marlin)
  --models DIR    where the peers' model files are made, once, 9 GB (build/compare)
  --tests LIST    tg = --tokens tokens, one by one, from an empty context; pp = a prompt of --prompt tokens ("tg,pp")
  --only LIST     of peers' quantization types (all that the tests need)
  --tokens N, --prompt N, --repeat N, --threads N      (16, 512, 3, 2)

Peers are Python modules; one that is not installed is left out. Wheels of both are built for AVX2 alone, which is no fair
peer on a newer processor: build them here.

    pip install numpy
    pip install --no-binary llama-cpp-python llama-cpp-python
    pip install --no-binary ik-llama-cpp-python ik-llama-cpp-python

(or set LLAMA_CPP_LIB_PATH and IK_LLAMA_CPP_LIB_PATH to libraries built from the same sources).

Each model of a peer lives in a process of its own, which times llama_decode alone; marlin's process times itself. Every
repeat runs all of them once, and only figures of one repeat are divided by each other. `others` is the share of the
processors that anything else on this machine took meanwhile, `stolen` what its host gave to other machines; the table
leaves out runs where `others` was above 5 %.
"""
import argparse
import csv
import ctypes
import importlib
import importlib.util
import json
import os
import random
import resource
import statistics
import struct
import subprocess
import sys
import time

# Qwen3-4B, as `marlin bench --shape qwen3-4b`.
LAYERS, HIDDEN, FF, HEADS, KV_HEADS, HEAD, VOCAB = 36, 2560, 9728, 32, 8, 128, 151936

# test, bits of ours, peer's module, its type, the ratio that is wanted
CONTESTS = [
    ("tg", 4, "llama_cpp", "Q4_K_M", 1.1),
    ("tg", 4, "ik_llama_cpp", "IQ4_KT", 2.0),
    ("tg", 2, "llama_cpp", "Q2_K", 1.0),
    ("tg", 2, "llama_cpp", "IQ2_XXS", 2.0),
    ("pp", 4, "llama_cpp", "Q4_0", 1.5),
    ("pp", 2, "llama_cpp", "Q4_0", 1.5),
]
NAMES = {"llama_cpp": "llama.cpp", "ik_llama_cpp": "ik_llama.cpp"}
BINDINGS = {"llama_cpp": "llama_cpp.llama_cpp", "ik_llama_cpp": "ik_llama_cpp._ctypes_api"}
BUSY = 0.05  # of the processors, by anything else: more than that and a run does not count
FIELDS = "round test engine weights mb tokens threads tokens_per_second others stolen".split()

# ---- the peers' model files ----

# number in the file, weights and bytes of a block, offsets of its float16 scales, bytes before each row
TYPES = {
    "F32": (0, 1, 4, (), 0),
    "Q4_0": (2, 32, 18, (0,), 0),
    "Q2_K": (10, 256, 84, (80, 82), 0),
    "Q3_K": (11, 256, 110, (108,), 0),
    "Q4_K": (12, 256, 144, (0, 2), 0),
    "Q5_K": (13, 256, 176, (0, 2), 0),
    "Q6_K": (14, 256, 210, (208,), 0),
    "IQ2_XXS": (16, 256, 66, (0,), 0),
    "IQ5_K": (140, 256, 176, (0,), 0),
    "IQ4_KT": (155, 256, 128, (), 4),
}
# name: file type, the usual type, and what the engines' own quantizers choose for this shape instead (head, v, down, out)
MIXES = {
    "Q4_0": (2, "Q4_0", {"head": "Q6_K"}),
    "Q4_K_M": (15, "Q4_K", {"head": "Q6_K", "v": "more", "down": "more"}),
    "Q2_K": (10, "Q2_K", {"head": "Q6_K", "v": "Q4_K", "down": "Q3_K", "out": "Q3_K"}),
    "IQ2_XXS": (19, "IQ2_XXS", {"head": "Q5_K", "v": "Q4_K", "down": "first"}),
    "IQ4_KT": (153, "IQ4_KT", {"head": "Q6_K", "v": "IQ5_K"}),
}


def kind(mix, role, layer):
    _, usual, special = MIXES[mix]
    choice = special.get(role, usual)
    if choice == "more":  # Q4_K_M: half of the layers
        eighth = LAYERS // 8
        more = layer < eighth or layer >= 7 * LAYERS // 8 or (layer - eighth) % 3 == 2
        return "Q6_K" if more else usual
    if choice == "first":  # IQ2_XXS: the first eighth
        return "Q2_K" if layer < LAYERS // 8 else usual
    return choice


def tensors(mix):
    """name, type, columns, rows (0: a vector)"""
    yield "token_embd.weight", kind(mix, "head", 0), HIDDEN, VOCAB
    yield "output_norm.weight", "F32", HIDDEN, 0
    for i in range(LAYERS):
        for name, role, columns, rows in (
            ("attn_q", "q", HIDDEN, HEADS * HEAD),
            ("attn_k", "k", HIDDEN, KV_HEADS * HEAD),
            ("attn_v", "v", HIDDEN, KV_HEADS * HEAD),
            ("attn_output", "out", HEADS * HEAD, HIDDEN),
            ("ffn_gate", "gate", HIDDEN, FF),
            ("ffn_up", "up", HIDDEN, FF),
            ("ffn_down", "down", FF, HIDDEN),
        ):
            yield f"blk.{i}.{name}.weight", kind(mix, role, i), columns, rows
        for name, columns in (("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)):
            yield f"blk.{i}.{name}.weight", "F32", columns, 0


def row_bytes(name, columns):
    _, weights, size, _, before = TYPES[name]
    return before + columns // weights * size


def size_of(name, columns, rows):
    return row_bytes(name, columns) * max(rows, 1)


def contents(name, columns, rows):
    """Random bits with scales that keep every value finite and small. Speed does not depend on the values."""
    import numpy as np

    if name == "F32":
        return np.ones(columns, np.float32).tobytes()
    _, weights, size, scales, before = TYPES[name]
    data = np.frombuffer(np.random.bytes(size_of(name, columns, rows)), np.uint8).reshape(rows, -1).copy()
    blocks = data[:, before:].reshape(rows, columns // weights, size)
    for at in scales:
        blocks[:, :, at : at + 2] = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
    data[:, :before] = np.frombuffer(np.float32(1e-3).tobytes(), np.uint8)[:before]
    return data.tobytes()


def metadata(mix):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def u32(v):
        return struct.pack("<II", 4, v)

    def f32(v):
        return struct.pack("<If", 6, v)

    def string(s):
        return struct.pack("<I", 8) + text(s)

    fields = {
        "general.architecture": string("qwen3"),
        "general.name": string(f"random {mix}"),
        "general.file_type": u32(MIXES[mix][0]),
        "general.quantization_version": u32(2),
        "qwen3.block_count": u32(LAYERS),
        "qwen3.context_length": u32(40960),
        "qwen3.embedding_length": u32(HIDDEN),
        "qwen3.feed_forward_length": u32(FF),
        "qwen3.attention.head_count": u32(HEADS),
        "qwen3.attention.head_count_kv": u32(KV_HEADS),
        "qwen3.attention.key_length": u32(HEAD),
        "qwen3.attention.value_length": u32(HEAD),
        "qwen3.attention.layer_norm_rms_epsilon": f32(1e-6),
        "qwen3.rope.freq_base": f32(1e6),
        "qwen3.vocab_size": u32(VOCAB),
        "tokenizer.ggml.model": string("no_vocab"),
    }
    return len(fields), b"".join(text(k) + v for k, v in fields.items())


def write_model(path, mix):
    """GGUF 3: fields, the tensors' names and places, then each tensor at a multiple of 32 bytes."""
    todo = list(tensors(mix))
    count, head = metadata(mix)
    at = 0
    for name, type_name, columns, rows in todo:
        shape = (columns, rows) if rows else (columns,)
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", TYPES[type_name][0], at)
        at += -(-size_of(type_name, columns, rows) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(todo), count) + head
    with open(path + ".part", "wb") as f:
        f.write(head + bytes(-len(head) % 32))
        for _, type_name, columns, rows in todo:
            data = contents(type_name, columns, rows)
            f.write(data + bytes(-len(data) % 32))
    os.rename(path + ".part", path)


# ---- a peer, in its own process ----


class Engine:
    """One model in one engine; the two modules bind almost the same C functions under the same names."""

    def __init__(self, module, path, threads, most):
        self.api = importlib.import_module(BINDINGS[module])
        self.api.llama_backend_init()
        self.model = self.api.llama_model_load_from_file(path.encode(), self.api.llama_model_default_params())
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = most + 64, most, 512
        params.n_threads = params.n_threads_batch = threads
        self.context = self.model and self.api.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"compare: {module} does not take {path}")
        self.batch = self.api.llama_batch_init(most, 0, 1)

    def info(self):
        """The instructions that the engine was built for."""
        call = self.api._lib.llama_print_system_info
        call.restype = ctypes.c_char_p
        return call().decode().strip()

    def clear(self):
        if hasattr(self.api, "llama_kv_cache_clear"):
            self.api.llama_kv_cache_clear(self.context)
        else:
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def feed(self, first, n):
        """n tokens at once; logits of the last one, which are read so that nothing stays undone."""
        b = self.batch
        b.n_tokens = n
        for i in range(n):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = random.randrange(VOCAB), first + i, 1, 0
            b.logits[i] = i == n - 1
        if self.api.llama_decode(self.context, b):
            raise SystemExit("compare: llama_decode failed")
        return self.api.llama_get_logits_ith(self.context, n - 1)[0]

    def run(self, test, tokens):
        self.clear()
        start = time.perf_counter()
        if test == "pp":
            value = self.feed(0, tokens)
        else:
            for i in range(tokens):
                value = self.feed(i, 1)
        seconds = time.perf_counter() - start
        if value != value or abs(value) == float("inf"):
            raise SystemExit("compare: logits are not finite")
        return seconds


def serve(module, path, threads, most):
    """Answers lines "test tokens" by seconds and processor seconds."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = Engine(module, path, int(threads), int(most))
    engine.run("pp", 32)
    engine.run("tg", 2)
    print(engine.info(), file=answers)
    for line in sys.stdin:
        test, tokens = line.split()
        before = time.process_time()
        seconds = engine.run(test, int(tokens))
        print(seconds, time.process_time() - before, file=answers)


class Peer:
    def __init__(self, args, module, mix):
        self.engine, self.weights = NAMES[module], mix
        path = os.path.join(args.models, f"qwen3-4b-{mix}.gguf")
        self.mb = sum(size_of(t, c, r) for _, t, c, r in tensors(mix)) / 1e6
        command = [sys.executable, __file__, "--serve", module, path, str(args.threads), str(max(args.prompt, args.tokens))]
        log = open(path + "." + module + ".log", "w")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def ready(self):
        info = self.process.stdout.readline()
        if not info:
            raise SystemExit(f"compare: {self.engine} {self.weights} did not start, see its log beside the model")
        print(f"compare: {self.engine} {self.weights}: {info}", end="", file=sys.stderr)

    def run(self, test, tokens):
        self.process.stdin.write(f"{test} {tokens}\n")
        self.process.stdin.flush()
        seconds, own = map(float, self.process.stdout.readline().split())
        return tokens / seconds, self.mb, own


class Marlin:
    def __init__(self, args, bits):
        self.args, self.engine, self.weights = args, "marlin", f"{bits} bits"
        self.bits = bits

    def run(self, test, tokens):
        prompt, generated = (tokens, 0) if test == "pp" else (0, tokens)
        command = [self.args.marlin, "bench", "--shape", "qwen3-4b", "--bits", self.bits, "--threads", self.args.threads]
        command += ["-p", prompt, "-n", generated, "--repeat", 1, "--json", "--quiet"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = json.loads(subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True, text=True).stdout)["runs"][0]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return out["tokens_per_second"], out["weight_bytes"] / 1e6, own


# ---- all of them in turn ----


def processor_seconds():
    """Since this machine started: busy, taken by other machines on the same host, all."""
    with open("/proc/stat") as f:
        user, nice, system, idle, wait, irq, soft, steal = map(int, f.readline().split()[1:9])
    busy = user + nice + system + irq + soft
    return [v / os.sysconf("SC_CLK_TCK") for v in (busy, steal, busy + steal + idle + wait)]


def measure(player, test, tokens, stamp, threads):
    before = processor_seconds()
    speed, mb, own = player.run(test, tokens)
    busy, stolen, total = (now - then for now, then in zip(processor_seconds(), before))
    row = (stamp, f"{test}{tokens}", player.engine, player.weights, f"{mb:.0f}", tokens, threads, f"{speed:.3f}")
    return dict(zip(FIELDS, row + (f"{max(0.0, busy - own) / total:.3f}", f"{stolen / total:.3f}")))


def contests(args):
    """Those that were asked for and whose peer is there."""
    chosen, missing = [], set()
    for contest in CONTESTS:
        test, _, module, mix, _ = contest
        if test not in args.tests.split(",") or (args.only and mix not in args.only.split(",")):
            continue
        if importlib.util.find_spec(module):
            chosen.append(contest)
        elif module not in missing:
            missing.add(module)
            print(f"compare: {module} is not installed, left out", file=sys.stderr)
    return chosen


def make_models(args, chosen):
    os.makedirs(args.models, exist_ok=True)
    for mix in sorted({c[3] for c in chosen}):
        path = os.path.join(args.models, f"qwen3-4b-{mix}.gguf")
        if not os.path.exists(path):
            print(f"compare: making {path}", file=sys.stderr)
            write_model(path, mix)


def run_all(args):
    chosen = contests(args)
    make_models(args, chosen)
    if args.repeat == 0:
        return
    peers = {mix: Peer(args, module, mix) for _, _, module, mix, _ in chosen}
    for peer in peers.values():
        peer.ready()
    ours = {bits: Marlin(args, bits) for _, bits, _, _, _ in chosen}
    plan = []  # each once, ours next to theirs
    for test, bits, _, mix, _ in chosen:
        plan += [step for step in ((test, ours[bits]), (test, peers[mix])) if step not in plan]
    fresh = not os.path.exists(args.csv)
    with open(args.csv, "a", newline="") as f:
        rows = csv.DictWriter(f, FIELDS, lineterminator="\n")
        if fresh:
            rows.writeheader()
        for _ in range(args.repeat):
            stamp = f"{time.time():.0f}"
            for test, player in plan:
                rows.writerow(measure(player, test, args.tokens if test == "tg" else args.prompt, stamp, args.threads))
                f.flush()


# ---- the table ----


def read_rows(path):
    """(test, threads, engine, weights): {round: row}, and how many rows were left out"""
    found, dropped = {}, 0
    with open(path, newline="") as f:
        for row in csv.DictReader(f):
            if float(row["others"]) > BUSY:
                dropped += 1
                continue
            found.setdefault((row["test"], row["threads"], row["engine"], row["weights"]), {})[row["round"]] = row
    return found, dropped


def speeds(rows):
    v = [float(r["tokens_per_second"]) for r in rows]
    return f"{statistics.median(v):.1f} ({min(v):.1f}-{max(v):.1f})"


def report(path):
    found, dropped = read_rows(path)
    print("| test | marlin | MB | tokens/s | against | MB | tokens/s | rounds | ratio (range) | wanted |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for test, threads in sorted({key[:2] for key in found}, reverse=True):
        for kind_of, bits, module, mix, wanted in CONTESTS:
            ours = found.get((test, threads, "marlin", f"{bits} bits"), {})
            theirs = found.get((test, threads, NAMES[module], mix), {})
            both = sorted(set(ours) & set(theirs))
            if not test.startswith(kind_of) or not both:
                continue
            a, b = [ours[r] for r in both], [theirs[r] for r in both]
            ratios = [float(x["tokens_per_second"]) / float(y["tokens_per_second"]) for x, y in zip(a, b)]
            print(
                f"| {test} | {bits} bits | {a[0]['mb']} | {speeds(a)} | {NAMES[module]} {mix} | {b[0]['mb']} | {speeds(b)} | {len(both)} "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {wanted} |"
            )
    if dropped:
        print(f"\n{dropped} runs left out: something else took more than {BUSY:.0%} of the processors.")


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve(*sys.argv[2:])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--csv", required=True)
    p.add_argument("--report", action="store_true")
    p.add_argument("--marlin", default="build/marlin")
    p.add_argument("--models", default="build/compare")
    p.add_argument("--tests", default="tg,pp")
    p.add_argument("--only", default="")
    for name, value in (("tokens", 16), ("prompt", 512), ("repeat", 3), ("threads", 2)):
        p.add_argument("--" + name, type=int, default=value)
    args = p.parse_args()
    if not args.report:
        run_all(args)
    if os.path.exists(args.csv):
        report(args.csv)


if __name__ == "__main__":
    main()
