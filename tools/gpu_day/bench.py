# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""`mtl-perception bench` from a checkout that is not installed, as on a borrowed machine."""

from __future__ import annotations

import argparse
import sys

from mtl_evaluation.bench import timing
from mtl_perception.bundle import BundleError
from mtl_perception.engines import EngineError


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence."""
    parser = argparse.ArgumentParser(description=timing.__doc__)
    timing.add_arguments(parser)
    try:
        return int(timing.run(parser.parse_args(argv)) or 0)
    except (BundleError, EngineError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
