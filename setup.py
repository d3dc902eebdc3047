# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Package for colcon (ament_python) and pip: vehicle, evaluation and scenes; no training, no test.

One distribution, because colcon builds one ROS package and its launch files start parts of both
(`replay.launch.py`, `camera:=test_pattern`). What a vehicle saves by leaving evaluation out are its
requirements, and those are the extra `evaluation`; without it the commands say how to install it.

Name, version, maintainer and licence are package.xml's, version bounds those of requirements/.
"""

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

# colcon --symlink-install runs a link to this file from its build folder.
ROOT = Path(__file__).resolve().parent
PACKAGE = ElementTree.parse(ROOT / 'package.xml')
NAME = PACKAGE.findtext('name')
PACKAGES = (NAME, 'mtl_evaluation', 'mtl_scenes')


def requirements():
    """Read the files: extra -> requirements, '' for those always needed."""
    by_extra = defaultdict(list)
    for file in ('runtime', 'engines', 'evaluation'):
        for line in (ROOT / 'requirements' / f'{file}.txt').read_text().splitlines():
            requirement, _, comment = line.partition('#')
            extra = comment.partition(':')[0].strip() if file != 'evaluation' else file
            if requirement.strip():
                by_extra[extra].append(requirement.strip())
    return by_extra


def data_files():
    """Share files by folder, where ROS 2 looks for them: marker, launch, config, model bundles."""
    share = f'share/{NAME}'
    by_folder = defaultdict(list)
    by_folder['share/ament_index/resource_index/packages'].append(f'resource/{NAME}')
    by_folder[share].append('package.xml')
    for pattern in ('launch/*.launch.py', 'config/*', 'models/**/*'):
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                relative = path.relative_to(ROOT)
                by_folder[f'{share}/{relative.parent}'].append(str(relative))
    # colcon puts bin/ on PATH, but its scripts go to lib/mtl_perception, where `ros2 run` looks.
    # In a wheel the script that pip makes would be in the same place.
    if not {'bdist_wheel', 'editable_wheel'} & set(sys.argv):
        by_folder['bin'].append('bin/mtl-perception')
    return sorted(by_folder.items())


extras = requirements()
setup(
    name=NAME,
    version=PACKAGE.findtext('version'),
    description=' '.join(PACKAGE.findtext('description').split()),
    license=PACKAGE.findtext('license'),
    maintainer=PACKAGE.findtext('maintainer'),
    maintainer_email=PACKAGE.find('maintainer').get('email'),
    python_requires='>=3.10',
    packages=find_packages(include=[*PACKAGES, *(f'{name}.*' for name in PACKAGES)]),
    package_data={
        f'{NAME}.interfaces': ['*/msg/*.msg'],
        'mtl_evaluation.report': ['templates/*', 'assets/*'],
    },
    data_files=data_files(),
    install_requires=extras.pop(''),
    # `colcon test` takes pytest where the extra `test` names it.
    extras_require={**extras, 'test': ['pytest', 'hypothesis']},
    entry_points={
        'console_scripts': [
            f'mtl-perception = {NAME}.cli:main',
            f'perception_node = {NAME}.node.__main__:main',
            'test_pattern = mtl_evaluation.live.test_pattern:main',
        ],
        # The groups are described in mtl_perception/extensions.py.
        'mtl_perception.commands': [
            'bag = mtl_evaluation.commands.bag',
            'bench = mtl_evaluation.bench.timing',
            'compare = mtl_evaluation.commands.compare',
            'demo = mtl_evaluation.commands.demo',
            'replay = mtl_evaluation.commands.replay',
        ],
        'mtl_perception.hooks': [
            'accuracy = mtl_evaluation.bench.sizes:load',
            'calibration = mtl_evaluation.bench.frames:calibration',
            'check = mtl_evaluation.bench.accuracy:run',
        ],
    },
    zip_safe=False,
)
