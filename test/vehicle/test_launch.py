# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The launch files: read as text always, built and run for real where `launch` is installed.

`launch` and `launch_ros` are on no package registry; a full ROS 2 has them.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mtl_perception.node import launch_checks
from mtl_perception.node.launch_checks import LaunchError
from mtl_perception.node.parameter_table import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
PERCEPTION, CAMERA, REPLAY = (
    ROOT / 'launch' / f'{name}.launch.py' for name in ('perception', 'camera', 'replay')
)

PERCEPTION_ARGUMENTS = {
    'namespace', 'image_topic', 'image_transport', 'params_file', 'model', 'engine', 'precision',
    'device', 'build', 'autostart', 'use_sim_time', 'use_respawn', 'log_level', 'overlay', 'rviz',
}  # fmt: skip
ARGUMENTS = {
    PERCEPTION: PERCEPTION_ARGUMENTS,
    CAMERA: PERCEPTION_ARGUMENTS | {'camera', 'video_device'},
    REPLAY: PERCEPTION_ARGUMENTS
    | {'bag', 'rate', 'start_offset', 'loop', 'record', 'output', 'report'},
}
FREE = {
    'namespace', 'image_topic', 'params_file', 'model', 'device', 'video_device', 'bag', 'rate',
    'start_offset', 'output', 'report',
}  # fmt: skip
"""Arguments that can be anything; all others must list their choices."""

# Takes the place of `ros2 launch`, which is no more than this around the same library.
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [word.split(':=', 1) for word in sys.argv[2:]]
file = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService(noninteractive=True)
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(file, launch_arguments=arguments)])
)
sys.exit(service.run())
"""


def by_name(path: Path) -> str:
    return path.name


# As text: needs no ROS ----------------------------------------------------------------------------


def calls(path: Path, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition('.')[2] == name
    ]


def constants(path: Path) -> set[object]:
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_there_are_the_three_launch_files():
    assert set(FILES) == {PERCEPTION, CAMERA, REPLAY}


def test_only_perception_launch_starts_the_node():
    assert [path for path in FILES if 'perception_node' in constants(path)] == [PERCEPTION]
    assert all('perception.launch.py' in constants(path) for path in (CAMERA, REPLAY))


@pytest.mark.parametrize('path', FILES, ids=by_name)
def test_no_evals_installs_or_downloads(path: Path):
    tree = ast.parse(path.read_text())
    imported = {
        name.partition('.')[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ''] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    commands = [
        [word.value for word in keyword.value.elts[:2] if isinstance(word, ast.Constant)]
        for call in calls(path, 'ExecuteProcess')
        for keyword in call.keywords
        if keyword.arg == 'cmd' and isinstance(keyword.value, ast.List)
    ]

    assert imported <= {
        'launch',
        'launch_ros',
        'lifecycle_msgs',
        'mtl_perception',
        'pathlib',
        're',
        'importlib',
    }
    assert not names & {'eval', 'exec', 'compile', '__import__', 'PythonExpression', 'Command'}
    assert all(command in (['ros2', 'bag'], ['--live']) for command in commands)
    assert len(commands) == len(calls(path, 'ExecuteProcess'))
    assert not any(keyword.arg == 'shell' for node in ast.walk(tree) if isinstance(node, ast.Call)
                   for keyword in node.keywords)  # fmt: skip


@pytest.mark.parametrize('path', FILES, ids=by_name)
def test_every_argument_is_there_with_a_description(path: Path):
    files = {path, PERCEPTION}
    declared = [call for file in files for call in calls(file, 'DeclareLaunchArgument')]
    literal = {call.args[0].value for call in declared if isinstance(call.args[0], ast.Constant)}
    from_table = next(
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(PERCEPTION.read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'PARAMETERS'
    )

    assert all('description' in {word.arg for word in call.keywords} for call in declared)
    assert set(from_table) <= set(BY_NAME)
    assert literal | set(from_table) == ARGUMENTS[path]


# What is checked before a start -------------------------------------------------------------------


def test_a_missing_package_is_one_sentence_with_the_command_to_install_it(tmp_path: Path):
    environment = {'AMENT_PREFIX_PATH': str(tmp_path), 'ROS_DISTRO': 'kilted'}

    with pytest.raises(LaunchError, match='sudo apt install ros-kilted-usb-cam') as raised:
        launch_checks.require_package('usb_cam', 'camera:=usb_cam', environment)

    assert str(raised.value).startswith('camera:=usb_cam needs the package usb_cam')
    assert '\n' not in str(raised.value)


def test_an_installed_package_is_found_behind_another_prefix(tmp_path: Path):
    marker = tmp_path / 'b' / launch_checks.PACKAGES / 'usb_cam'
    marker.parent.mkdir(parents=True)
    marker.touch()

    launch_checks.require_package(
        'usb_cam', 'camera:=usb_cam', {'AMENT_PREFIX_PATH': f'{tmp_path / "a"}:{tmp_path / "b"}'}
    )


def test_a_missing_command_names_its_package(tmp_path: Path):
    with pytest.raises(LaunchError, match='not on PATH: `sudo apt install ros-jazzy-ros2bag`'):
        launch_checks.require_command('ros2', 'ros2bag', 'replay', {'PATH': str(tmp_path)})


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_in():
    with pytest.raises(LaunchError, match=r"params_file: there is no file 'no.yaml' \(from /"):
        launch_checks.require_file('no.yaml', 'params_file')


@pytest.mark.parametrize('device', ['/dev/video97', __file__], ids=['absent', 'a file'])
def test_a_missing_camera_offers_others(device: str):
    with pytest.raises(LaunchError, match=r'no video device .* found .*camera:=test_pattern'):
        launch_checks.require_video_device(device, 'usb_cam')


def test_a_character_device_is_taken():
    assert launch_checks.require_video_device('/dev/null', 'usb_cam') == Path('/dev/null')


@pytest.mark.parametrize('name', ['drive.mcap', 'drive.db3', 'drive/metadata.yaml'])
def test_bags_are_folders_with_metadata_or_single_files(tmp_path: Path, name: str):
    (tmp_path / 'drive').mkdir()
    (tmp_path / name).touch()

    assert launch_checks.require_bag(str(tmp_path / name.partition('/')[0]))


def test_not_a_bag(tmp_path: Path):
    (tmp_path / 'drive.mp4').touch()

    for value in (tmp_path, tmp_path / 'drive.mp4', tmp_path / 'no.mcap'):
        with pytest.raises(LaunchError, match='is not a rosbag2'):
            launch_checks.require_bag(str(value))


@pytest.mark.parametrize('value', ['abc', '', '0', '-1', 'nan', '1e9'])
def test_a_number_that_is_none_is_found_before_anything_is_started(value: str):
    with pytest.raises(LaunchError, match=r'rate:=.*expected a number of 0\.01 to 100'):
        launch_checks.require_number('rate', value, 0.01, 100)


def test_a_number_is_taken():
    assert launch_checks.require_number('rate', '0.5', 0.01, 100) == 0.5


@pytest.mark.parametrize('value', ['/a b', '1x', '/a//b', 'a-b', ''])
def test_a_topic_that_is_none_is_found_before_anything_is_started(value: str):
    with pytest.raises(LaunchError, match='expected a ROS name'):
        launch_checks.require_topic('image_topic', value)


@pytest.mark.parametrize('value', ['camera/image_raw', '/front/image_raw', '~/image', 'x_1'])
def test_a_topic_is_taken(value: str):
    launch_checks.require_topic('image_topic', value)
    launch_checks.require_topic('namespace', '', empty=True)


def test_the_measuring_player_gets_a_model_only_where_one_was_given():
    """An empty one would be looked for: `no model ''`."""
    text = REPLAY.read_text()

    assert "*(['--model', model] if model else [])" in text


# The layouts --------------------------------------------------------------------------------------


def test_the_rviz_file_shows_what_the_launch_file_remaps():
    layout = yaml.safe_load((ROOT / 'config' / 'perception.rviz').read_text())
    shown = {item['Topic']['Value'] for item in layout['Visualization Manager']['Displays']}
    remapped = next(
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(PERCEPTION.read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'SHOWN_TOPICS'
    )

    assert shown == {f'/perception/{name}' for name in remapped}


def test_the_foxglove_layout_places_every_panel_once():
    layout = json.loads((ROOT / 'config' / 'foxglove_layout.json').read_text())

    def panels(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        assert isinstance(node, dict) and node['direction'] in ('row', 'column')
        return [*panels(node['first']), *panels(node['second'])]

    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])


# For real -----------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def launch_installed() -> None:
    # Not `launch` alone: the repository's folder of that name would do as a namespace package.
    for module in ('launch.actions', 'launch_ros.actions'):
        pytest.importorskip(module, reason='needs launch and launch_ros (a full ROS 2)')


@pytest.fixture(scope='module')
def environment(launch_installed: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A ROS environment with our package installed, and a `ros2` that writes down its arguments."""
    pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')
    import live_node

    prefix = tmp_path_factory.mktemp('prefix')
    executables = prefix / 'lib' / 'mtl_perception'
    executables.mkdir(parents=True)
    for name, module in (
        ('perception_node', 'mtl_perception.node'),
        ('test_pattern', 'mtl_evaluation.live.test_pattern'),
    ):
        write_script(executables / name, f'exec {sys.executable} -m {module} "$@"')
    marker = prefix / launch_checks.PACKAGES / 'mtl_perception'
    marker.parent.mkdir(parents=True)
    marker.touch()
    (prefix / 'bin').mkdir()
    # Plays for a second; records until SIGINT.
    write_script(
        prefix / 'bin' / 'ros2',
        f'echo "$@" >> {prefix}/ros2.log\n'
        'if [ "$2" = play ]; then sleep 1; exit ${PLAYER_CODE:-0}; fi\n'
        f'trap \'echo "recording closed" >> {prefix}/ros2.log; exit 0\' INT\n'
        'while :; do sleep 0.1; done',
    )
    was = os.environ
    return {
        **was,
        **live_node.private_ros_environment(tmp_path_factory.mktemp('log')),
        'AMENT_PREFIX_PATH': f'{prefix}:{was.get("AMENT_PREFIX_PATH") or sys.prefix}',
        'PYTHONPATH': f'{ROOT}:{was.get("PYTHONPATH", "")}',
        'PATH': f'{prefix / "bin"}:{was["PATH"]}',
        'PREFIX': str(prefix),
    }


def write_script(path: Path, body: str) -> None:
    path.write_text(f'#!/bin/sh\n{body}\n')
    path.chmod(0o755)


class Launch:
    """`ros2 launch FILE name:=value ...` as a process, its output in a file."""

    def __init__(self, folder: Path, environment: dict[str, str], file: Path, **arguments: object):
        self.log = folder / 'launch.log'
        words = [f'{name}:={value}' for name, value in arguments.items()]
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-c', RUN, str(file), *words],
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        """End it if the test did not; it then ends what it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.wait()

    @property
    def output(self) -> str:
        return self.log.read_text()

    def pids(self, executable: str) -> list[int]:
        """Process ids of an executable, every start of it."""
        pattern = rf'\[{executable}-\d+\]: process started with pid \[(\d+)\]'
        return [int(pid) for pid in re.findall(pattern, self.output)]

    def wait(self, timeout_s: float = 60) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f'launch still runs after {timeout_s} s: {self.output}') from None


@pytest.mark.launch
@pytest.mark.parametrize('path', FILES, ids=by_name)
def test_every_shown_argument_is_described_and_limited(path: Path, launch_installed: None):
    from launch.launch_description_sources import (
        get_launch_description_from_python_launch_file,
    )

    description = get_launch_description_from_python_launch_file(str(path))
    arguments = {item.name: item for item in description.get_launch_arguments()}

    assert set(arguments) == ARGUMENTS[path]
    assert all(len(item.description) > 10 for item in arguments.values())
    assert {name for name, item in arguments.items() if not item.choices} == FREE & set(arguments)


@pytest.mark.launch
@pytest.mark.parametrize(
    ('path', 'arguments', 'sentence'),
    [
        (CAMERA, {'camera': 'usb_cam'}, 'camera:=usb_cam needs the package usb_cam'),
        (CAMERA, {'camera': 'webcam'}, 'provided value "webcam" is not valid'),
        (PERCEPTION, {'params_file': 'no.yaml'}, "there is no file 'no.yaml'"),
        (REPLAY, {'bag': 'README.md'}, 'is not a rosbag2'),
    ],
    ids=['no driver', 'unknown camera', 'no parameters', 'not a bag'],
)
def test_what_cannot_be_started_is_one_sentence_and_an_exit_code(
    path: Path,
    arguments: dict[str, str],
    sentence: str,
    environment: dict[str, str],
    tmp_path: Path,
):
    with Launch(tmp_path, environment, path, **arguments) as launch:
        code = launch.wait()

    assert code == 1
    assert sentence in launch.output
    assert 'Traceback' not in launch.output
    assert 'process started' not in launch.output


@pytest.mark.launch
@pytest.mark.ros
@pytest.mark.slow
def test_a_test_pattern_is_perceived_and_a_killed_node_comes_back(
    environment: dict[str, str], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import live_node
    from vision_msgs.msg import Detection2DArray

    for name in ('ROS_DOMAIN_ID', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOG_DIR'):
        monkeypatch.setenv(name, environment[name])
    with (
        live_node.peer() as peer,
        Launch(
            tmp_path, environment, CAMERA, camera='test_pattern', namespace='car',
            model=tiny_bundle, engine='onnxruntime', build='true', use_respawn='true',
        ) as launch,
    ):  # fmt: skip
        detections = peer.listen('/car/perception/detections', Detection2DArray)
        peer.until(lambda: len(detections) >= 3, f'detections; {launch.output}', 60)
        first, *_ = launch.pids('perception_node')

        os.kill(first, signal.SIGKILL)
        peer.until(lambda: len(launch.pids('perception_node')) == 2, 'second start', 30)
        seen = len(detections)
        peer.until(lambda: len(detections) >= seen + 3, f'new detections; {launch.output}', 60)

        started_s = time.monotonic()
        launch.process.send_signal(signal.SIGINT)
        code = launch.wait()

    assert code == 0
    assert time.monotonic() - started_s < 8
    assert launch.output.count('process has finished cleanly') == 2
    assert {message.header.frame_id for message in detections} == {'camera_optical'}


@pytest.mark.launch
@pytest.mark.ros
def test_a_node_that_cannot_start_ends_the_launch_with_a_code(
    environment: dict[str, str], tmp_path: Path
):
    (tmp_path / 'bad.yaml').write_text('/**: {ros__parameters: {score_threshold: 3.0}}')

    with Launch(tmp_path, environment, PERCEPTION, params_file=tmp_path / 'bad.yaml') as launch:
        code = launch.wait()

    assert code == 1
    assert 'score_threshold must be 0 to 1, found 3' in launch.output
    assert 'the perception node ended with code 2' in launch.output


@pytest.mark.launch
@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize('player_code', [0, 3])
def test_a_bag_is_played_and_recorded_once_the_node_is_active_and_its_end_is_the_end(
    environment: dict[str, str], tiny_bundle: Path, tmp_path: Path, player_code: int
):
    (tmp_path / 'drive.mcap').touch()
    log = Path(environment['PREFIX']) / 'ros2.log'
    log.unlink(missing_ok=True)

    with Launch(
        tmp_path, {**environment, 'PLAYER_CODE': str(player_code)}, REPLAY,
        bag=tmp_path / 'drive.mcap', rate='0.5', start_offset='2.5', record='true',
        output=tmp_path / 'out', model=tiny_bundle, engine='onnxruntime', build='true',
    ) as launch:  # fmt: skip
        code = launch.wait(90)

    play = next(line for line in log.read_text().splitlines() if line.startswith('bag play'))
    record = next(line for line in log.read_text().splitlines() if line.startswith('bag record'))
    assert play.startswith(f'bag play {tmp_path}/drive.mcap --rate 0.5 --start-offset 2.5 --clock ')
    assert '--loop' not in play
    assert record.startswith(f'bag record --output {tmp_path}/out --storage mcap --regex ')
    pattern = record.split()[record.split().index('--regex') + 1]
    recorded = ['/perception/detections', '/perception/drivable/label_info', '/diagnostics']
    assert all(re.search(pattern, topic) for topic in recorded)
    ignored = ['/perception/overlay/compressed', '/camera/image_raw', '/other/perception/drivable']
    assert not any(re.search(pattern, topic) for topic in ignored)
    assert launch.output.index('active: listening') < launch.output.index('[player-')
    assert 'recording closed' in log.read_text()
    assert code == (1 if player_code else 0)


@pytest.mark.launch
@pytest.mark.ros
def test_a_replay_without_a_model_ends(environment: dict[str, str], tmp_path: Path):
    (tmp_path / 'drive.mcap').touch()

    with Launch(
        tmp_path, environment, REPLAY, bag=tmp_path / 'drive.mcap', model='no_such_model'
    ) as launch:
        code = launch.wait()

    assert code == 1
    assert "no model 'no_such_model'" in launch.output
    assert '[player-' not in launch.output


def test_the_test_pattern_goes_to_and_fro():
    pytest.importorskip('vision_msgs.msg', reason='needs ROS 2 and vision_msgs')
    from mtl_evaluation.live.test_pattern import to_and_fro

    assert [to_and_fro(count, 4) for count in range(8)] == [0, 1, 2, 3, 2, 1, 0, 1]
    assert [to_and_fro(count, 1) for count in range(3)] == [0, 0, 0]
