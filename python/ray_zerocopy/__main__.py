"""``python -m ray_zerocopy``: see `cli`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# The verbs' modules are imported when one is used: some need Ray, which takes seconds to import.
_VERBS = {
    "doctor": "say why a model is slow here, or its weights are copied",
    "inspect": "show what a model file or a .safetensors file holds",
    "verify": "compare all bytes of model files with their checksums",
    "convert": "from a model file to .safetensors, and back",
    "list": "list the named models of a running cluster",
    "delete": "delete a named model",
}

EXIT_CODES = "exit codes: 0: done; 1: it could not be done, and the message says why; 2: the arguments are wrong"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m ray_zerocopy", epilog=EXIT_CODES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    asked = next((word for word in (sys.argv[1:] if arguments is None else arguments) if word in _VERBS), None)
    for verb, text in _VERBS.items():
        own = verbs.add_parser(
            verb,
            help=text,
            description=text,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if verb == asked:
            module = importlib.import_module(f"ray_zerocopy.cli.{verb}")
            own.description = getattr(module, "DESCRIPTION", text)
            own.epilog = getattr(module, "EPILOG", EXIT_CODES)
            module.add_arguments(own)
            own.set_defaults(run=module.run)
    given = parser.parse_args(arguments)
    try:
        code = int(given.run(given))
        sys.stdout.flush()
    except BrokenPipeError:  # who reads it, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
