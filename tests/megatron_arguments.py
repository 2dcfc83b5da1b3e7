#!/usr/bin/env python3
"""Arguments that `megatune export --to megatron --json` wrote, through Megatron-LM's own parser and checks, to the
configuration of its transformer.

    python3 tests/megatron_arguments.py MEGATRON_FOLDER EXPORT.json...

Needs Megatron-LM's source and PyTorch, no GPU: where Megatron-LM asks the GPU for its compute capability, it hears 9.0; where it asks for the version of Transformer Engine, 2.9.
Prints one line a file; ends with 1 when an argument list is not taken.
"""
import json
import math
import os
import sys
import types
import typing

import typing_extensions

typing.override = typing_extensions.override  # before Python 3.12
folder, files = sys.argv[1], sys.argv[2:]
sys.path.insert(0, folder)
os.environ.update(RANK="0", WORLD_SIZE="1", CUDA_DEVICE_MAX_CONNECTIONS="1")

import torch  # noqa: E402

torch.cuda.get_device_capability = lambda *_: (9, 0)
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(major=9, minor=0)
from megatron.core import utils  # noqa: E402
from megatron.training import argument_utils, arguments  # noqa: E402

utils._te_version = utils.PkgVersion("2.9")


def value(words, name):
    return int(words[words.index(name) + 1]) if name in words else 1


def main():
    refused = 0
    for path in files:
        with open(path) as file:
            words = json.load(file)["arguments"]
        sys.argv = ["pretrain_gpt.py"] + words
        said = "parsed and validated"
        try:
            args = arguments.parse_args()
            args.rank = 0
            grid = [value(words, "--%s-parallel-size" % axis) for axis in ("tensor-model", "pipeline-model", "context")]
            # as many data-parallel ranks as the batch allows: all of them keep the rule of the batch
            args.world_size = math.prod(grid) * (value(words, "--global-batch-size") // value(words, "--micro-batch-size"))
            stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
            try:
                arguments.validate_args(args)
                args.apply_rope_fusion = False  # of Transformer Engine, which is not needed here
                argument_utils.core_transformer_config_from_args(args)  # experts, latent attention, modules
            finally:
                sys.stdout = stdout
        except (SystemExit, Exception) as error:  # argparse ends the program
            said = "refused: %s %s" % (type(error).__name__, str(error)[:300])
            refused += 1
        print("%s: %s" % (path, said))
    return 1 if refused else 0


sys.exit(main())
