# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The bundle: a folder with a manifest and the files that it vouches for.

The only thing that crosses from training to the vehicle. `manifest.yaml` names tasks, input,
outputs and the sha256 of every file; `manifest.py` reads it. Nothing is unpickled. A hash proves
identity, not safety: a bundle is as trustworthy as where it came from.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from mtl_perception.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    BundleError,
    InputSpec,
    Manifest,
    Metric,
    OutputSpec,
    as_data,
    at_size,
    parse_manifest,
    read_yaml,
    write_manifest,
)
from mtl_perception.onnx_file import OnnxFileError, check_self_contained
from mtl_perception.schema import did_you_mean
from mtl_perception.text import quoted

__all__ = [
    'MANIFEST', 'MAX_FILE_BYTES', 'MAX_MANIFEST_BYTES', 'Bundle', 'BundleError',
    'InputSpec', 'Manifest', 'Metric', 'OutputSpec', 'bundled', 'find_bundle',
    'model_folders', 'parse_manifest', 'sha256_of', 'write_manifest',
]  # fmt: skip

MAX_FILE_BYTES = 2 << 30
"""What an ONNX file can be at most; a larger file is refused before it is read."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    path: Path
    manifest: Manifest
    original: Manifest | None = None
    """The manifest as it was read, where `manifest` is for another input size."""

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Bundle:
        """Read and check a bundle folder; `verify` compares every file's sha256.

        Raises BundleError when the folder, manifest or a file is missing, unreadable, malformed, of
        another schema, or differs from its hash.
        """
        folder = Path(path).expanduser()
        manifest_path = folder / MANIFEST
        try:
            if not manifest_path.is_file():
                raise BundleError(
                    f'no model bundle at {folder}: expected a folder with {MANIFEST}, found '
                    f'{"a folder without it" if folder.is_dir() else "nothing"}. Bundles that come '
                    f'with the package are listed by `mtl-perception doctor`; '
                    f'`python -m training.export` writes one.'
                )
            # A manifest that is a link (colcon --symlink-install) is read where it really lies.
            folder = folder if not manifest_path.is_symlink() else manifest_path.resolve().parent
            bundle = cls(folder, parse_manifest(read_yaml(folder / MANIFEST), str(manifest_path)))
            if verify:
                bundle.verify()
        except OSError as error:
            raise BundleError(
                f'the model bundle {folder} cannot be read: {error}. Every file of it must be '
                f'readable by the user that runs this.'
            ) from error
        return bundle

    def verify(self) -> None:
        """Compare every listed file with its sha256; raises BundleError on the first difference.

        A graph that names files of its own is refused as well: no hash would cover those.
        """
        for name in self.manifest.files:
            if name.endswith('.onnx'):
                self.read(name)
            else:
                self._compare(name, sha256_of(self._sized(name)))

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, whose sha256 was compared: what engines are built from.

        Read once, so that what is hashed is what is used, whatever happens to the file meanwhile.
        Raises BundleError as `file` does, when they are not those that the manifest names, and when
        they are an ONNX graph that keeps weights in other files.
        """
        try:
            data = self._sized(name).read_bytes()
        except OSError as error:
            raise BundleError(f'{self.path / name} cannot be read: {error}') from error
        self._compare(name, hashlib.sha256(data).hexdigest())
        if name.endswith('.onnx'):
            try:
                check_self_contained(data)
            except OnnxFileError as error:
                if error.names:
                    raise BundleError(
                        f'{self.path / name} is refused: {error}, which the manifest cannot vouch '
                        f'for. Save the graph as one file (`onnx.save_model(model, path)`, '
                        f'save_as_external_data=False) and export the bundle again.'
                    ) from error
        return data

    def _sized(self, name: str) -> Path:
        path = self.file(name)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BundleError(
                f'{path} has {size} bytes, expected at most {MAX_FILE_BYTES}: '
                f'not a file of a bundle. Export the bundle again.'
            )
        return path

    def _compare(self, name: str, found: str) -> None:
        expected = self.manifest.files[name]
        if found != expected:
            raise BundleError(
                f'{self.path / name} is not the file the manifest names: expected sha256 '
                f'{expected}, found {found}. Copy the bundle again from where it was exported.'
            )

    def file(self, name: str) -> Path:
        """Path of a listed file; raises BundleError when it is not listed or not there."""
        if name not in self.manifest.files:
            raise BundleError(
                f'bundle {self.path} lists no {quoted(name)}; it has '
                f'{quoted(sorted(self.manifest.files))}. '
                f'Export it again with that format, or choose another engine.'
            )
        path = self.path / name
        if path.is_symlink():
            raise BundleError(
                f'{path} is a symbolic link, which could lead elsewhere tomorrow: a bundle has '
                f'files only. Copy it with `cp -rL`.'
            )
        if not path.is_file():
            raise BundleError(f'{path} is listed in the manifest but is not a regular file there')
        return path

    def at_size(self, height: int, width: int) -> Bundle:
        """The same bundle for engines of another input size; its hash stays.

        Raises BundleError when its graph cannot take that size.
        """
        original = self.original or self.manifest
        found = at_size(original, height, width)
        return replace(self, manifest=found, original=original)

    @property
    def is_resized(self) -> bool:
        """Whether it is for another input size than its own."""
        return self.original is not None and self.original.input != self.manifest.input

    @property
    def hash(self) -> str:
        """Identity of the bundle: sha256 over the whole manifest, file hashes included."""
        canonical = json.dumps(as_data(self.original or self.manifest), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def model_folders() -> list[Path]:
    """Where bundles are looked up by name: a checkout's `models/`, then installed share folders.

    Those are `share/mtl_perception/models` below the Python prefix and every ROS prefix sourced.
    """
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    shares = [Path(prefix) / 'share/mtl_perception/models' for prefix in prefixes if prefix]
    checkout = Path(__file__).resolve().parent.parent / 'models'
    return [folder for folder in dict.fromkeys([checkout, *shares]) if folder.is_dir()]


def bundled() -> dict[str, Path]:
    """Bundles that come with this installation, by folder name."""
    found: dict[str, Path] = {}
    for folder in model_folders():
        for manifest in sorted(folder.glob(f'*/{MANIFEST}')):
            found.setdefault(manifest.parent.name, manifest.parent)
    return found


def find_bundle(model: str | Path) -> Path:
    """The folder meant by a path, or by the name of a bundle that comes with this installation.

    A folder that exists goes before a name. Raises BundleError naming the bundles there are.
    """
    path = Path(model).expanduser()
    if str(model) and path.is_dir():
        return path
    known = bundled()
    if str(model) in known:
        return known[str(model)]
    raise BundleError(
        f'no model {quoted(str(model))}: expected a bundle folder or one of {sorted(known)} '
        f'(from {[str(folder) for folder in model_folders()]}){did_you_mean(model, known)} '
        f'`mtl-perception doctor` lists models, `python -m training.export` writes one.'
    )


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
