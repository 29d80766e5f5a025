"""``python -m ray_zerocopy``: see `cli`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# The verbs' modules are imported when one is used: some need Ray, which takes seconds to import.
_VERBS = {
    "doctor": "say why a model is slow here, or its weights are copied",
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
    return int(given.run(given))


if __name__ == "__main__":
    sys.exit(main())
