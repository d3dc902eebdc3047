# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Builds message packages against the ROS 2 wheels, once a machine, and installs them.

PyPI has no vision_msgs, foxglove_msgs or tf2_msgs. Their texts in `mtl_perception/interfaces`
become wheels in a per-user cache (`~/.cache/mtl_perception`, or below XDG_CACHE_HOME); later calls
and other clones install those. Run it with the Python of the environment that is to have them.

--check needs no environment: it prints the apt packages that a build on this machine still lacks.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MESSAGES = HERE.parents[1] / 'mtl_perception' / 'interfaces'
REQUIREMENTS = HERE.parent / 'ros-build.txt'
CONSTRAINTS = HERE.parent / 'constraints.txt'
TAG = f'cp{sys.version_info.major}{sys.version_info.minor}'
PLATFORM = sysconfig.get_platform().replace('-', '_').replace('.', '_')

WHEELS_INCLUDE = re.compile(r'/opt/python/cp[^/]+/include/python3\.\d+')
WHEELS_NUMPY_INCLUDE = re.compile(r'/opt/python/cp[^/]+/lib/[^";]*/numpy/(?:_core|core)/include')


class BuildError(Exception):
    """The build cannot be done here; the message says what to do."""


@dataclass(frozen=True)
class Interface:
    """A package of messages. version: of the public one; used: packages that its messages name."""

    name: str
    version: str
    used: tuple[str, ...]

    @property
    def messages(self) -> Path:
        """Folder of its message texts."""
        return MESSAGES / self.name / 'msg'

    def build_key(self) -> str:
        """Name everything that a finished wheel depends on, apart from the Python tag."""
        digest = hashlib.sha256('/'.join(platform.libc_ver()).encode())
        read = [*self.messages.glob('*.msg'), *HERE.iterdir(), REQUIREMENTS]
        for path in sorted(read, key=lambda path: path.name):  # wherever the checkout lies
            if path.is_file():
                digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
        pins = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith('ros-')]
        digest.update('\n'.join(pins).encode())
        return digest.hexdigest()[:12]

    @property
    def wheel(self) -> Path:
        """Where the finished wheel lies in the cache."""
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        wheels = cache / 'mtl_perception' / 'wheels'
        return wheels / f'{self.name}-{self.full_version}-{TAG}-{TAG}-{PLATFORM}.whl'

    @property
    def full_version(self) -> str:
        """As pip says it."""
        return f'{self.version}+mtl.{self.build_key()}'


INTERFACES = (
    Interface('vision_msgs', '4.1.1', ('std_msgs', 'geometry_msgs')),
    Interface('foxglove_msgs', '3.2.3', ('builtin_interfaces',)),
    Interface('tf2_msgs', '0.36.14', ('geometry_msgs',)),
)


def missing_packages() -> list[str]:
    """Debian names of what a build needs and this machine lacks."""
    missing = []
    if not any(shutil.which(name) for name in (os.environ.get('CC', 'cc'), 'gcc')):
        missing.append('gcc')
    if not any(shutil.which(name) for name in (os.environ.get('CXX', 'c++'), 'g++')):
        missing.append('g++')
    if not (Path(sysconfig.get_path('include')) / 'Python.h').is_file():
        missing.append(f'python{sys.version_info.major}.{sys.version_info.minor}-dev')
    return missing


def clean_environment(**changes: str) -> dict[str, str]:
    """Environment for another Python: without what the ROS wheels' bootstrapper left in ours."""
    dropped = {'_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'LD_LIBRARY_PATH', 'PYTHONPATH', 'PYTHONHOME'}
    return {k: v for k, v in os.environ.items() if k not in dropped} | changes


class Builder:
    """One build in a throw-away folder: tools, configure, compile, wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = folder / 'tools'
        self.log = folder / 'build.log'

    def install_tools(self) -> None:
        """Have what builds interfaces; raises BuildError."""
        say('installing the build tools (about 30 s)')
        venv = [sys.executable, '-m', 'venv', '--without-pip', str(self.tools)]
        self.run(venv, clean_environment())
        pip = [sys.executable, '-m', 'pip', '--python', str(self.tools / 'bin' / 'python')]
        install = ['install', '--quiet', '--no-input', '-r', str(REQUIREMENTS)]
        self.run([*pip, *install, '-c', str(CONSTRAINTS)], dict(os.environ))
        self.correct_include_paths()

    def build(self, interface: Interface) -> None:
        """Leave the finished wheel in the cache; raises BuildError."""
        say(f'{interface.name}: compiling (about 40 s on two cores)')
        folder = self.folder / interface.name
        source, build, prefix = (folder / name for name in ('source', 'build', 'prefix'))
        source.mkdir(parents=True)
        shutil.copy(HERE / 'CMakeLists.txt', source)
        about = (HERE / 'package.xml').read_text()
        about = about.replace('INTERFACE', interface.name).replace('0.0.0', interface.version)
        used = '\n  '.join(f'<depend>{name}</depend>' for name in interface.used)
        (source / 'package.xml').write_text(about.replace('<depend>USED</depend>', used))
        shutil.copytree(interface.messages, source / 'msg')
        environment = clean_environment(
            PATH=f'{self.tools / "bin"}{os.pathsep}{os.environ["PATH"]}',
            AMENT_PREFIX_PATH=str(self.tools),
            CMAKE_PREFIX_PATH=str(self.tools),
        )
        cmake = str(self.tools / 'bin' / 'cmake')
        configure = [cmake, '-G', 'Ninja', '-S', str(source), '-B', str(build)]
        configure += [f'-DINTERFACE={interface.name}', f'-DUSED={";".join(interface.used)}']
        configure += ['-DBUILD_TESTING=OFF', '-DCMAKE_BUILD_TYPE=Release']
        configure += [f'-DCMAKE_INSTALL_PREFIX={prefix}']
        configure += [f'-DPython3_EXECUTABLE={self.tools / "bin" / "python"}']
        self.run(configure, environment)
        self.run([cmake, '--build', str(build)], environment)
        self.run([cmake, '--install', str(build), '--strip'], environment)
        self.pack(interface, prefix)

    def correct_include_paths(self) -> None:
        """Point the wheels' CMake exports at this Python instead of their build machine's."""
        python = sysconfig.get_path('include')
        numpy = next(self.tools.glob('lib/python3*/site-packages/numpy/_core/include'))
        for export in self.tools.glob('share/*/cmake/*Export*.cmake'):
            text = export.read_text()
            changed = WHEELS_INCLUDE.sub(python, WHEELS_NUMPY_INCLUDE.sub(str(numpy), text))
            if changed != text:
                export.write_text(changed)

    def run(self, command: list[str], environment: dict[str, str]) -> None:
        """Run one step into the log, with a line of progress; raises BuildError with its end."""
        with self.log.open('a') as log:
            log.write(f'$ {" ".join(command)}\n')
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                show_step(line)
        if process.wait():
            kept = Path(tempfile.gettempdir()) / 'interfaces-build.log'
            shutil.copy(self.log, kept)
            end = '\n'.join(self.log.read_text().splitlines()[-15:])
            step = ' '.join(command[:4])
            raise BuildError(f'{end}\n`{step} ...` failed; the whole log is {kept}')

    def pack(self, interface: Interface, prefix: Path) -> None:
        """Zip what the installed package needs at run time into a wheel, under its name at last."""
        site, wheel = next(prefix.glob('lib/python3*/site-packages')), interface.wheel
        name = f'{interface.name}-{interface.full_version}'
        info, data = f'{name}.dist-info', f'{name}.data/data'
        members = {}
        for path in prefix.rglob('*'):
            parts = path.relative_to(prefix).parts
            at_run_time = parts[0] in ('lib', 'share') and 'cmake' not in parts
            if not path.is_file() or not at_run_time or path.suffix in ('.c', '.pyc'):
                continue
            if not path.is_relative_to(site):
                members[f'{data}/{"/".join(parts)}'] = path.read_bytes()
            elif path.is_relative_to(site / interface.name):
                members[path.relative_to(site).as_posix()] = path.read_bytes()
        members[f'{info}/METADATA'] = (
            f'Metadata-Version: 2.1\nName: {interface.name}\nVersion: {interface.full_version}\n'
            'Requires-Dist: numpy\n'
            f'Summary: {interface.name}, built by mtl_perception against the ROS 2 wheels\n'
        ).encode()
        members[f'{info}/WHEEL'] = (
            'Wheel-Version: 1.0\nGenerator: mtl_perception\nRoot-Is-Purelib: false\n'
            f'Tag: {TAG}-{TAG}-{PLATFORM}\n'
        ).encode()
        record = [f'{member},,' for member in (*members, f'{info}/RECORD')]
        members[f'{info}/RECORD'] = '\n'.join([*record, '']).encode()

        wheel.parent.mkdir(parents=True, exist_ok=True)
        half_done = wheel.with_name(f'{wheel.name}.{os.getpid()}.tmp')
        with zipfile.ZipFile(half_done, 'w', zipfile.ZIP_DEFLATED) as archive:
            for member, content in sorted(members.items()):
                archive.writestr(member, content)
        half_done.rename(wheel)


def say(text: str) -> None:
    """Print one line of progress."""
    print(f'    interfaces: {text}', flush=True)


def show_step(line: str) -> None:
    """Show ninja's counter: in place on a terminal, every quarter elsewhere."""
    match = re.match(r'\[(\d+)/(\d+)\]', line)
    if match is None:
        return
    done, total = int(match[1]), int(match[2])
    if sys.stdout.isatty():
        print(f'\r    interfaces: {done}/{total}', end='\n' if done == total else '', flush=True)
    elif done and done % max(total // 4, 1) == 0:
        say(f'{done}/{total}')


def installed_version(name: str) -> str | None:
    """Version of an interface in this environment."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def install() -> None:
    """Have the interfaces in this environment: from the cache, or built now; raises BuildError."""
    wanted = [item for item in INTERFACES if installed_version(item.name) != item.full_version]
    unbuilt = [item for item in wanted if not item.wheel.is_file()]
    if unbuilt:
        if missing := missing_packages():
            raise BuildError(f'a build needs: sudo apt install {" ".join(missing)}')
        with tempfile.TemporaryDirectory(prefix='interfaces-') as folder:
            builder = Builder(Path(folder))
            builder.install_tools()
            for interface in unbuilt:
                builder.build(interface)
    for interface in wanted:
        wheel = interface.wheel
        pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps']
        if subprocess.run([*pip, '--force-reinstall', str(wheel)], check=False).returncode:
            raise BuildError(f'cannot install {wheel}; delete that file and run the command again')
        say(f'installed from {wheel}')


def main() -> int:
    """Command line; 0 when the interfaces are there (or, with --check, whatever is missing)."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--check', action='store_true', help='print the apt packages a build lacks')
    if parser.parse_args().check:
        built = all(interface.wheel.is_file() for interface in INTERFACES)
        print(' '.join([] if built else missing_packages()))
        return 0
    try:
        install()
    except (BuildError, OSError) as error:
        print(f'interfaces: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
