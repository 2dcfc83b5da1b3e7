#!/usr/bin/env python3
"""compare_calculon.py [GPUS [GBS]]: this search beside Calculon's, by seconds of the processor, over the same layouts of GPT-3 175B.

CALCULON: a clone of github.com/calculon-ai/calculon (it needs numpy, pandas, psutil); not set: skipped, exit 77.
MEGATUNE: the program (build/megatune). SAMPLE: seconds of Calculon's rate as it ships (10).

Same machine and model: Calculon's systems/a100_80g.json and models/gpt3-175B.json are converted (rates, efficiencies, latencies,
memory; what they do not state stays the A100's); software that does what Calculon models: attention not fused, no host time, no
vocabulary, data parallelism hidden. Same space: tp, pp, vp, dp, micro-batch, sequence parallelism, ZeRO-1, recompute of nothing,
the attention or all; no offload, no overlap of tensor parallelism. Calculon tries further choices inside of a layout (networks,
gathers done again, overlap); each counts as a layout of its own in its favour.

Both optima are then costed by both models; Calculon's time of a layout is its best over those choices. The two count memory
differently (Calculon shards 16-bit gradients with the optimizer, what Megatron-LM's ZeRO-1 does not), so an optimum under
Calculon's own model takes its memory too: our search hands over its JUDGED fastest layouts whatever they need, and Calculon's model
says which of them fit and how long they take. The best of these must be no slower than the best of Calculon's whole search.
"""
import itertools
import json
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time

MEGATUNE = os.environ.get("MEGATUNE", "build/megatune")
SAMPLE_S = float(os.environ.get("SAMPLE", "10"))
RECOMPUTE = {"none": "none", "attn_only": "selective", "full": "full"}
FACTOR = 1000   # layouts/s over Calculon's
KEPT = 300      # of our best, among which are those that both search
JUDGED = 120    # of these, handed to Calculon's model
ONE_SPACE = "cp=1,ep=1,schedule=1f1b,first_less=0,last_less=0"
REPEATS = 5     # of our search, for its rate


def yaml(kind, values):
    return kind + ":\n" + "".join("  %s: %s\n" % (k, str(v).lower() if isinstance(v, bool) else v) for k, v in values.items())


def machine_file(system):
    near, far = system["networks"]
    matrix, memory = system["matrix"]["float16"], system["mem1"]
    return yaml("machine", dict(
        name="calculon-a100-80g", like="a100-80g-sxm", tflops_16=matrix["tflops"], product_frac=matrix["gflops_efficiency"][0][1],
        sustained_frac=1, memory_gib=memory["GiB"], memory_gbps=memory["GBps"], memory_frac=memory["MB_efficiency"][0][1],
        node_gpus=near["size"], domain_gpus=near["size"], link_gbps=near["bandwidth"], link_frac=near["efficiency"],
        link_us=near["latency"] * 1e6, nic_gbps=far["bandwidth"], nic_frac=far["efficiency"], nic_us=far["latency"] * 1e6))


def stack_file():
    return yaml("stack", dict(
        name="calculon", like="megatron-lm-2021", host_forward_us=0, host_backward_us=0, host_comm_us=0, microbatch_us=0, step_us=0,
        dp_overlap_frac=1, jitter_frac=0, context_gib=0, fragmentation_frac=0, most_zero=1))


def model_file(app):
    return yaml("model", dict(
        name="gpt3-175b", layers=app["num_blocks"], hidden=app["hidden"], heads=app["attn_heads"], kv_heads=app["attn_heads"],
        head_dim=app["attn_size"], ffn=app["feedforward"], vocab=128, seq=app["seq_size"], norm="layernorm", position="learned",
        mlp="gelu", bias=True, tied=True))


class Ours:
    def __init__(self, folder, system, app, gpus, gbs):
        paths = {}
        for name, text in (("machine", machine_file(system)), ("stack", stack_file()), ("model", model_file(app))):
            paths[name] = os.path.join(folder, name + ".yaml")
            with open(paths[name], "w", encoding="utf-8") as file:
                file.write(text)
        self.command = [MEGATUNE, "plan", paths["model"], "--machine", paths["machine"], "--stack", paths["stack"], "--gpus", str(gpus),
                        "--gbs", str(gbs), "--jobs", "1", "--json", "--out", folder]
        self.layers = app["num_blocks"]

    def plan(self, fix, *more):
        done = subprocess.run([*self.command, "--fix", fix, *more], capture_output=True, text=True, check=False)
        if done.returncode:
            return None, done.stderr.strip()
        return json.loads(done.stdout), None

    def shared(self, layout):
        each = self.layers // layout["pp"]
        return self.layers % layout["pp"] == 0 and each % layout["vp"] == 0 and (
            layout["recompute"] != "full" or layout["recompute_layers"] == each)

    def search(self):
        """Every layout that keeps the rules costed, none pruned; the best that both search."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(REPEATS):
            document, why = self.plan(ONE_SPACE, "--no-bounded", "--best", str(KEPT))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not document:
            sys.exit("megatune plan: " + why)
        best = next((p for p in document["best"] if self.shared(p["layout"])), None)
        if not best:
            sys.exit("none of the %d best layouts is one that Calculon knows" % KEPT)
        processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return best, document["search"]["evaluated"], processor_s / REPEATS

    def fastest(self):
        """The JUDGED layouts of least time that both search, whether they fit or not."""
        document, why = self.plan(ONE_SPACE, "--best", str(KEPT), "--hbm", "100000")
        if not document:
            sys.exit("megatune plan: " + why)
        return [p["layout"] for p in document["best"] if self.shared(p["layout"])][:JUDGED]

    def cost(self, layout):
        """Seconds of a layout, and the GiB that it needs, whether it fits or not."""
        axes = ["tp", "pp", "vp", "mbs", "sp", "zero", "recompute"] + (["recompute_layers"] if layout["recompute"] == "full" else [])
        fix = ",".join("%s=%s" % (k, int(layout[k]) if isinstance(layout[k], bool) else layout[k]) for k in axes)
        document, why = self.plan(ONE_SPACE + "," + fix, "--hbm", "100000")
        if not document:
            sys.exit("megatune plan: " + why)
        return document["choice"]["step_s"], document["choice"]["peak_bytes"] / 2**30


class Calculon:
    def __init__(self, folder, system, app, gpus, gbs):
        sys.path.insert(0, folder)
        try:
            import calculon
            from calculon.llm.llm import Llm
            from calculon.llm.optimal_execution import OptimalExecution
        except ImportError as error:
            print("Calculon cannot be loaded: %s (pip install numpy pandas psutil)" % error, file=sys.stderr)
            sys.exit(77)
        self.llm, self.search_one = Llm, OptimalExecution.search
        self.app, self.system = Llm.Application(app), calculon.System(system)
        self.gpus, self.gbs = gpus, gbs

    def spaces(self):
        """Arguments of Calculon's own search, a call for each (tp, pp, vp, recompute, sharding, kind of communication)."""
        llm, app = self.llm, self.app
        for tp in llm.get_all_tensor_parallelisms(self.gpus, app.hidden, app.attn_heads):
            for pp in llm.get_all_pipeline_parallelisms(self.gpus, tp, app.num_blocks):
                dp = llm.get_data_parallelism(self.gpus, tp, pp)
                if self.gbs % dp:
                    continue
                for vp in llm.get_valid_pipeline_interleavings(app.num_blocks, pp):
                    for recompute in RECOMPUTE:
                        for shard in [True, False] if dp > 1 else [False]:
                            for kind in ["ar", "p2p_rs_ag", "rs_ag"]:
                                yield (False, 1, False, self.gpus, self.gbs, "float16", app, self.system, tp, pp, dp, vp, self.gbs,
                                       recompute, shard, kind, [True], False, False, True)

    def one(self, arguments):
        """(sample rate, execution, stats) of the best of one space, executions, processor seconds."""
        start = time.process_time()
        found, tried, _, _, _, _ = self.search_one(*arguments)
        return found[:1], tried, time.process_time() - start

    def sample(self, seconds, every):
        """Executions and processor seconds of each `every`th space, for so long."""
        count, spent_s = 0, 0
        for arguments in list(self.spaces())[::every]:
            _, tried, spent = self.one(arguments)
            count, spent_s = count + tried, spent_s + spent
            if spent_s > seconds:
                break
        return count, spent_s

    def search(self):
        """(sample rate, execution, stats) of the best of all, executions, processor seconds; its spaces shared out over the cores."""
        with multiprocessing.get_context("fork").Pool() as pool:
            done = pool.map(self.one, list(self.spaces()), chunksize=8)
        best = max((found[0] for found, _, _ in done if found), key=lambda b: b[0], default=None)
        return best, sum(tried for _, tried, _ in done), sum(spent for _, _, spent in done)

    def executions(self, layout):
        """Those that its search tries inside of a layout."""
        nets = lambda size: range(self.system.num_networks) if size > 1 else [0]
        recompute = next(theirs for theirs, name in RECOMPUTE.items() if name == layout["recompute"])
        for kind in ["rs_ag"] if layout["sp"] else ["ar", "p2p_rs_ag"]:
            for redo, overlap, tp_net, pp_net, dp_net in itertools.product(
                    [True, False] if self.llm.can_redo_ag(kind, recompute) else [False], [True, False] if layout["dp"] > 1 else [False],
                    nets(layout["tp"]), nets(layout["pp"]), nets(layout["dp"])):
                yield dict(num_procs=self.gpus, tensor_par=layout["tp"], pipeline_par=layout["pp"], data_par=layout["dp"],
                           tensor_par_net=tp_net, pipeline_par_net=pp_net, data_par_net=dp_net, batch_size=self.gbs,
                           microbatch_size=layout["mbs"], datatype="float16", fused_activation=True, attention_type="multihead",
                           activation_recompute=recompute, pipeline_interleaving=layout["vp"], optimizer_sharding=layout["zero"] == 1,
                           tensor_par_comm_type=kind, tensor_par_overlap="none", seq_par_ag_redo=redo, data_par_overlap=overlap,
                           weight_offload=False, activations_offload=False, optimizer_offload=False, training=True)

    def cost(self, layout):
        """Calculon's least step time of a layout; None where it does not fit there."""
        times = []
        for execution in self.executions(layout):
            model = self.llm(self.app, logging.Logger("calculon"))
            try:
                model.compile(self.system, self.llm.Execution.from_json(execution))
                model.run(self.system)
                times.append(self.gbs / model.get_sample_rate())
            except self.llm.Error:
                continue
        return min(times, default=None)

    def judge(self, layouts):
        """(seconds, layout) of the best that fits, processor seconds."""
        start = time.process_time()
        found = [(seconds, at, layout) for at, layout in enumerate(layouts) for seconds in [self.cost(layout)] if seconds]
        if not found:
            sys.exit("by Calculon's model none of our %d fastest layouts fits" % len(layouts))
        seconds, _, layout = min(found)
        return seconds, layout, time.process_time() - start

    def layout(self, execution):
        recompute = RECOMPUTE[execution["activation_recompute"]]
        return dict(tp=execution["tensor_par"], pp=execution["pipeline_par"], vp=execution["pipeline_interleaving"],
                    dp=execution["data_par"], mbs=execution["microbatch_size"], sp=execution["tensor_par_comm_type"] == "rs_ag",
                    zero=int(execution["optimizer_sharding"]), recompute=recompute,
                    recompute_layers=self.app.num_blocks // execution["pipeline_par"] if recompute == "full" else 0)


def text_of(layout):
    words = ["%s%d" % (k, layout[k]) for k in ("tp", "pp", "vp", "dp", "mbs")]
    words += ["sp"] if layout["sp"] else []
    words += ["zero1"] if layout["zero"] else []
    return " ".join(words + ([] if layout["recompute"] == "none" else [layout["recompute"]]))


def seconds_of(value):
    return "too large" if value is None else "%.3f s" % value


def main():
    if not os.environ.get("CALCULON"):
        print("CALCULON is not set: name a clone of github.com/calculon-ai/calculon", file=sys.stderr)
        return 77
    home = os.path.realpath(os.environ["CALCULON"])
    gpus, gbs = int(sys.argv[1]) if len(sys.argv) > 1 else 4096, int(sys.argv[2]) if len(sys.argv) > 2 else 1536
    with open(home + "/systems/a100_80g.json", encoding="utf-8") as file:
        system = json.load(file)
    with open(home + "/models/gpt3-175B.json", encoding="utf-8") as file:
        app = json.load(file)
    system["mem2"]["GiB"] = 0  # no offload
    peer = Calculon(home, system, app, gpus, gbs)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(folder, system, app, gpus, gbs)
        pick, evaluated, our_s = ours.search()
        shipped, shipped_s = peer.sample(SAMPLE_S, every=37)
        logging.disable(logging.CRITICAL)
        found, tried, peer_s = peer.search()
        if not found:
            sys.exit("Calculon found no layout that fits")
        its = peer.layout(found[1])
        mine = pick["layout"]
        judged_s, judged, judge_s = peer.judge(ours.fastest())
        shown = [("ours", mine), ("Calculon's", its), ("judged", judged)]
        costs = [(ours.cost(layout), peer.cost(layout)) for _, layout in shown]
    rates = evaluated / our_s, shipped / shipped_s, tried / peer_s
    print("GPT-3 175B on %d A100 of Calculon's systems/a100_80g.json, %d sequences a step, seconds of one core" % (gpus, gbs))
    print("%-26s %12s %10s %14s" % ("search", "layouts", "CPU s", "layouts/CPU s"))
    for name, count, cpu_s, rate in (("megatune, nothing pruned", evaluated, our_s, rates[0]),
                                     ("Calculon as it ships", shipped, shipped_s, rates[1]),
                                     ("Calculon, logging off", tried, peer_s, rates[2])):
        print("%-26s %12d %10.2f %14.0f" % (name, count, cpu_s, rate))
    print("%-26s %12d %10.2f" % ("Calculon, judging ours", JUDGED, judge_s))
    print("%-53s %10s %10s %12s" % ("pick, costed by", "our model", "memory", "Calculon's"))
    for (name, layout), ((our_step_s, gib), its_step_s) in zip(shown, costs):
        print("%-10s %-42s %10s %6.1f GiB %12s" % (name, text_of(layout), seconds_of(our_step_s), gib, seconds_of(its_step_s)))
    limit, its_s = system["mem1"]["GiB"], gbs / found[0]
    checks = [("%.0f times Calculon's layouts/s as it ships, %.0f times with its logging off: at least %d times as it ships" %
               (rates[0] / rates[1], rates[0] / rates[2], FACTOR), rates[0] >= FACTOR * rates[1]),
              ("by our model our pick fits %g GiB and is no slower than Calculon's" % limit,
               costs[0][0][1] <= limit and (costs[1][0][1] > limit or costs[0][0][0] <= costs[1][0][0] * (1 + 1e-9))),
              ("by Calculon's model of time and memory the best of our %d fastest takes %.4f s, the best of its search %.4f s" %
               (JUDGED, judged_s, its_s), judged_s <= its_s * (1 + 1e-9))]
    for text, passed in checks:
        print("%s  %s" % ("ok    " if passed else "FAILED", text))
    failed = sum(not passed for _, passed in checks)
    print("%d passed, %d failed, 0 skipped" % (len(checks) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
