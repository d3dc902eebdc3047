# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Pack data, weights and wheels for a GPU machine without network.

    python -m tools.gpu_day.pack CONFIG FOLDER [key=value ...]

Sources are copied below FOLDER/data and FOLDER/config.yaml reads them from there, as a path
relative to the repository's root.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from tools.gpu_day.smaller import copy_source
from training.command import at_least
from training.config import ConfigError, load_config, save_config


def megabytes(folder: Path) -> float:
    """What the files below a folder take."""
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 2**20


def pack(config_path: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Write the folder; returns MiB by part. Raises ConfigError."""
    if folder.exists():
        raise ConfigError(f'{folder} exists; remove it, or give another folder')
    config = load_config(config_path, args.overrides)
    sizes: dict[str, float] = {}
    places: dict[Path, Path] = {}
    sources = []
    for source in config.data:
        root = Path(source.root)
        if not root.is_dir():
            if source.optional:
                continue
            raise ConfigError(f'data {source.name!r}: no folder {root}')
        if root not in places:
            places[root] = folder / 'data' / f'{len(places)}_{root.name}'
            width = args.width if source.kind == 'bdd100k' else None
            copy_source(root, places[root], args.quality, width)
            sizes[f'data of {source.name} ({root})'] = megabytes(places[root])
        sources.append(replace(source, root=str(places[root])))
    config.data = sources
    if args.run:
        best = args.run / 'best'
        if not best.is_dir():
            raise ConfigError(f'{args.run} holds no best/: it has no validated weights yet')
        shutil.copytree(best, folder / 'start' / 'best')
        shutil.copyfile(args.run / 'config.yaml', folder / 'start' / 'config.yaml')
        config.network.init_from = str(folder / 'start')
        config.network.pretrained, config.network.trunk_weights = False, ''
        sizes['weights'] = megabytes(folder / 'start')
    if args.wheels:
        shutil.copytree(args.wheels, folder / 'wheels')
        sizes['wheels'] = megabytes(folder / 'wheels')
    save_config(config, folder / 'config.yaml')
    return sizes


def main(argv: list[str] | None = None) -> int:
    """Command line; exit code 1 with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='YAML file, see training/configs/')
    parser.add_argument('folder', type=Path)
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--run', type=Path, help='training run whose best weights begin')
    parser.add_argument('--wheels', type=Path, help='folder of wheels that the machine lacks')
    parser.add_argument('--quality', type=int, default=85, help='of JPEGs (default: 85)')
    parser.add_argument(
        '--width', type=at_least(1), default=640, help='of wider images, in pixels (default: 640)'
    )
    parser.add_argument('--limit-mb', type=float, default=60, help='of the pack (default: 60)')
    args = parser.parse_intermixed_args(argv)
    try:
        sizes = pack(args.config, args.folder, args)
    except (ConfigError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for name, size in sizes.items():
        print(f'{size:8.1f} MiB {name}')
    if (total := sum(sizes.values())) > args.limit_mb:
        print(
            f'error: {total:.1f} MiB, expected at most {args.limit_mb:g}; leave sources out '
            f'(data=[...]), or lower --width or --quality',
            file=sys.stderr,
        )
        return 1
    print(f'{total:8.1f} MiB in {args.folder}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
