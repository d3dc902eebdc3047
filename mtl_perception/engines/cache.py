# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Engines built on this machine, kept so that the next start need not build.

One folder an engine under `$XDG_CACHE_HOME/mtl_perception/engines` (default `~/.cache`): the built
file, `key.json` (what it was built for, and its sha256, against truncation), and what was measured
of it since: `verdict.json` its accuracy, `batch.json` its time for several frames. Built under a
temporary name and renamed, so a folder with a right name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mtl_perception.bundle import sha256_of
from mtl_perception.engine_error import EngineError

KEY_FILE = 'key.json'
BUILT_FILE = 'engine.bin'
VERDICT_FILE = 'verdict.json'
BATCH_FILE = 'batch.json'


@dataclass(frozen=True)
class CacheKey:
    """What a built engine depends on; any difference is another engine.

    `shape` is the input with its batch axis; `device` names the hardware, not only its kind;
    `versions` are those of every library that wrote or will read the built file; `outputs` is the
    subset computed, empty for all.
    """

    bundle: str
    bundle_hash: str
    engine: str
    precision: str
    shape: tuple[int, ...]
    device: str
    versions: dict[str, str]
    outputs: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Sha256 over all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where the engine is, or would be."""
        bundle = re.sub(r'[^A-Za-z0-9._-]', '_', self.bundle)[:40]
        return cache_root() / f'{bundle}-{self.engine}-{self.precision}-{self.digest[:16]}'


def cache_root() -> Path:
    """The folder that holds all built engines; it need not exist."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'mtl_perception' / 'engines'


def is_built(key: CacheKey) -> bool:
    """Whether the cache has this engine; it may still turn out damaged.

    Raises EngineError when that cannot be told, as of another user's engine.
    """
    try:
        there = (key.folder / BUILT_FILE).is_file() and (key.folder / KEY_FILE).is_file()
        if there:
            _check_private(key.folder)
    except OSError as error:
        raise _unreadable(key.folder, error) from error
    return there


def built_file(key: CacheKey, command: str) -> Path:
    """The built file of a key, its sha256 compared.

    command: what builds it. Raises EngineError when it is missing, when the cache has only engines
    that were built for something else, and when it is damaged.
    """
    path = key.folder / BUILT_FILE
    if not is_built(key):
        raise EngineError(
            f'no {key.engine} {key.precision} engine for bundle {key.bundle!r} on this machine '
            f'(looked for {path}){_mismatch(key)}. Build it: {command}'
        )
    try:
        found = sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    expected = _read(key.folder / KEY_FILE).get('sha256')
    if found != expected:
        raise EngineError(
            f'the built engine {path} is damaged: expected sha256 {expected}, found {found}. '
            f'Build it again: {command} --force'
        )
    return path


def _mismatch(key: CacheKey) -> str:
    """How the engine in the cache that is most like the key differs from it; '' without any."""
    wanted = json.loads(json.dumps(asdict(key)))
    nearest: list[str] | None = None
    for folder in cache_root().glob('[!.]*'):
        record = _read(folder / KEY_FILE)
        if any(record.get(name) != wanted[name] for name in ('bundle', 'engine', 'precision')):
            continue
        differs = [name for name in wanted if record.get(name) != wanted[name]]
        if nearest is None or len(differs) < len(nearest):
            nearest = differs
            sides = [f'{name} {record.get(name)}, wanted {wanted[name]}' for name in differs]
    return f'; one is there that was built for {"; ".join(sides)}' if nearest else ''


def verdict(key: CacheKey) -> dict[str, Any]:
    """What measuring the accuracy of a built engine gave, empty when it was not measured.

    That of the whole graph at batch 1 holds for its subsets and batches: their arithmetic is it.
    """
    whole = replace(key, outputs=(), shape=(1, *key.shape[1:]))
    for each in (key, whole):
        if each.folder.exists():
            _check_private(each.folder)
    return _read(key.folder / VERDICT_FILE) or _read(whole.folder / VERDICT_FILE)


def batch_time(key: CacheKey) -> dict[str, Any]:
    """How long a run of a built engine for several frames takes, empty when it was not measured."""
    return _read(key.folder / BATCH_FILE)


def keep(key: CacheKey, file: str, found: Mapping[str, Any]) -> None:
    """Keep what was measured beside the built engine; gone when that is built again.

    Raises EngineError when it cannot be written.
    """
    work = key.folder / f'.{file}'
    try:
        work.write_text(json.dumps(found, indent=1) + '\n', 'utf-8')
        work.rename(key.folder / file)
    except OSError as error:
        raise EngineError(f'cannot keep what was measured in {key.folder}: {error}') from error


def build(
    key: CacheKey, write: Callable[[Path], None], notes: Mapping[str, str] | None = None
) -> Path:
    """Let `write(path)` make the built file, then put it in place; returns its final path.

    notes: kept beside the key. An older one under the same key is replaced. Raises EngineError when
    it cannot be written.
    """
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(root)
        work = Path(tempfile.mkdtemp(prefix='.building-', dir=root))
    except OSError as error:
        raise EngineError(
            f'cannot write the engine cache {root}: {error}. Set XDG_CACHE_HOME to a folder that '
            f'can be written, and run the command again.'
        ) from error
    try:
        write(work / BUILT_FILE)
        record = asdict(key) | {'sha256': sha256_of(work / BUILT_FILE), **(notes or {})}
        (work / KEY_FILE).write_text(json.dumps(record, indent=1), 'utf-8')
        if key.folder.exists():
            old = Path(tempfile.mkdtemp(prefix='.old-', dir=root))
            key.folder.rename(old / 'engine')
            shutil.rmtree(old, ignore_errors=True)
        work.rename(key.folder)
    except OSError as error:
        raise EngineError(f'cannot write the built engine {key.folder}: {error}') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return key.folder / BUILT_FILE


def entries() -> list[dict[str, Any]]:
    """What the cache holds: the fields of each key, with `path`, `bytes` and `damaged`."""
    found = []
    for folder in sorted(cache_root().glob('[!.]*')):
        path = folder / BUILT_FILE
        record: dict[str, Any] = {'path': str(path), 'bytes': 0, 'damaged': True}
        with suppress(OSError):  # of another user
            record['bytes'] = path.stat().st_size
            record |= _read(folder / KEY_FILE) | {'verdict': _read(folder / VERDICT_FILE)}
            record['damaged'] = sha256_of(path) != record.get('sha256')
        found.append(record)
    return found


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """CPU model and a digest of its feature flags: virtual machines share names, not features."""
    model, flags = platform.processor() or platform.machine(), ''
    try:
        for line in Path('/proc/cpuinfo').read_text('utf-8', 'replace').splitlines():
            name, _, value = line.partition(':')
            if name.strip() == 'model name':
                model = value.strip()
            elif name.strip() in ('flags', 'Features'):
                flags = ' '.join(sorted(value.split()))
                break
    except OSError:
        pass
    return f'{model} #{hashlib.sha256(flags.encode()).hexdigest()[:8]}'


def cpu_flags() -> frozenset[str]:
    """Feature flags of the first CPU as Linux names them; empty where there is no /proc."""
    try:
        for line in Path('/proc/cpuinfo').read_text('utf-8', 'replace').splitlines():
            if line.startswith(('flags', 'Features')):
                return frozenset(line.partition(':')[2].split())
    except OSError:
        pass
    return frozenset()


def _check_private(folder: Path) -> None:
    """Raise EngineError where somebody else could have written an engine, which is native code.

    The cache, the engine's folder and, where others can enter that, the files in it must be this
    user's or root's, and writable for nobody else. Raises OSError as well.
    """
    paths = [cache_root(), folder]
    if folder.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) and folder != cache_root():
        paths += folder.iterdir()
    for path in dict.fromkeys(paths):
        status = path.stat()
        if status.st_uid not in (os.geteuid(), 0):
            raise EngineError(
                f'{path} belongs to user {status.st_uid}, not to {os.geteuid()} who runs this: an '
                f'engine in it could be anything. Set XDG_CACHE_HOME to a folder of your own and '
                f'build there.'
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EngineError(
                f'{path} can be written by others (mode {stat.S_IMODE(status.st_mode):o}): an '
                f'engine in it could be anything. If it is yours alone: `rm -r {path}`, and build '
                f'again.'
            )


def _unreadable(path: Path, error: OSError) -> EngineError:
    return EngineError(
        f'the engine cache cannot be read: {error}. {path} is probably of another user: set '
        f'XDG_CACHE_HOME to a folder of your own and build the engine there.'
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
