# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A recorded bag through the perception node, in the bag's own time.

    ros2 launch mtl_perception replay.launch.py bag:=drives/monday image_topic:=/front/image_raw
    ros2 launch mtl_perception replay.launch.py bag:=drives/monday record:=true output:=monday_out
    ros2 launch mtl_perception replay.launch.py bag:=drives/monday report:=runs/monday

Playing starts when the node is active; everything ends when the bag does. This is for looking and
for latency. What arrives depends on the machine, so accuracy is measured by reading the bag:
`mtl-perception replay`. With `report` the camera alone is played, by `mtl-perception replay
--live`, which writes latency, drops and throughput. All arguments of `perception.launch.py` are
arguments here.
"""

import re
from importlib.util import find_spec
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.srv import GetState

from mtl_perception.children import module_command
from mtl_perception.node.launch_checks import (
    LaunchError,
    require_bag,
    require_command,
    require_number,
)

PERCEPTION = str(Path(__file__).with_name('perception.launch.py'))
BOOLEAN = ['true', 'false']
ASK_PERIOD_S = 0.5
TRIES = 3
"""So often a node that starts by itself may still be unconfigured before that is a failure."""
LEAD_S = 3
"""Between /clock and the first message: player, recorder and node find each other."""
LAST_ANSWERS_S = 2.0
CLOCK_HZ = 200


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument('bag', description='rosbag2 to play: its folder or file.'),
            DeclareLaunchArgument(
                'rate', default_value='1.0', description='Speed; 1.0 is as recorded.'
            ),
            DeclareLaunchArgument(
                'start_offset', default_value='0.0', description='Seconds of the bag to leave out.'
            ),
            DeclareLaunchArgument(
                'loop',
                default_value='false',
                choices=BOOLEAN,
                description='Start again at the end, until Ctrl-C.',
            ),
            DeclareLaunchArgument(
                'record',
                default_value='false',
                choices=BOOLEAN,
                description='Record the outputs of the node (but the overlay) and /diagnostics '
                'into a new bag (mcap).',
            ),
            DeclareLaunchArgument(
                'output',
                default_value='',
                description='Folder of the recorded bag, which must not exist. Empty: a folder '
                'named after the time, in the working folder.',
            ),
            DeclareLaunchArgument(
                'report',
                default_value='',
                description='Folder for live.json: latency, drops, throughput. The camera alone is '
                'played then, once and from the start. Empty: the whole bag is played, and '
                'nothing is measured.',
            ),
            OpaqueFunction(function=_check),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PERCEPTION),
                launch_arguments={'use_sim_time': 'true'}.items(),
            ),
            OpaqueFunction(function=_ask_node),
        ]
    )


def _check(context: LaunchContext) -> None:
    """Before anything is started: is that a bag, is there something to play it with?"""
    given = context.launch_configurations
    require_bag(given['bag'])
    require_number('rate', given['rate'], 0.01, 100.0)
    start_offset = require_number('start_offset', given['start_offset'], 0.0, 1e9)
    if given['report'] and (given['loop'] == 'true' or start_offset):
        raise LaunchError('report: measures one pass from the start; leave out loop, start_offset')
    if not given['report'] or given['record'] == 'true':
        require_command('ros2', 'ros2bag', 'replay.launch.py')
    if given['report'] and find_spec('mtl_evaluation') is None:
        raise LaunchError('report: needs the package mtl_evaluation, which is not installed')
    if given['record'] == 'true' and given['output'] and Path(given['output']).exists():
        raise LaunchError(f'output: {given["output"]!r} exists; give a folder that does not')


def _node_name(context: LaunchContext) -> str:
    namespace = context.launch_configurations['namespace'].strip('/')
    return f'/{namespace}/perception' if namespace else '/perception'


def _ask_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Ask for the node's lifecycle state until it is active.

    By its service, not by its transition events: those sent before this process has found the node
    would be missed.
    """
    client = get_ros_node(context).create_client(GetState, f'{_node_name(context)}/get_state')
    unconfigured = 0

    def look(_: LaunchContext, answer=None) -> list[LaunchDescriptionEntity]:
        nonlocal unconfigured
        label = answer.result().current_state.label if answer and answer.done() else ''
        if label == 'active':
            return _play(context)
        unconfigured += label == 'unconfigured'
        if unconfigured >= TRIES and context.launch_configurations['autostart'] == 'true':
            raise LaunchError('the perception node was not configured; its own reason is above')
        answer = client.call_async(GetState.Request()) if client.service_is_ready() else None
        again = OpaqueFunction(function=look, kwargs={'answer': answer})
        return [TimerAction(period=ASK_PERIOD_S, actions=[again])]

    return look(context)


def _play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, the recorder if wanted, and the end."""
    given = context.launch_configurations
    name = re.escape(_node_name(context))
    player = _measuring_player(context) if given['report'] else ExecuteProcess(
        name='player',
        cmd=[
            'ros2', 'bag', 'play', str(require_bag(given['bag'])),
            '--rate', given['rate'],
            '--start-offset', given['start_offset'],
            '--clock', str(CLOCK_HZ),
            '--delay', str(LEAD_S),
            # What the node said when the bag was recorded is not to be mixed with what it says now.
            '--exclude-regex', f'^{name}/',
            '--disable-keyboard-controls',
            *(['--loop'] if given['loop'] == 'true' else []),
        ],
        output='screen',
    )  # fmt: skip
    entities = [RegisterEventHandler(OnProcessExit(target_action=player, on_exit=_played)), player]
    if given['record'] == 'true':
        recorder = ExecuteProcess(
            name='recorder',
            cmd=[
                'ros2', 'bag', 'record',
                *(['--output', given['output']] if given['output'] else []),
                '--storage', 'mcap',
                '--regex', rf'^(/diagnostics|{name}/(?!overlay|transition_event).*)$',
                '--use-sim-time',
                '--disable-keyboard-controls',
            ],
            on_exit=_recorder_ended,
            output='screen',
        )  # fmt: skip
        entities.insert(0, recorder)
    return entities


def _measuring_player(context: LaunchContext) -> ExecuteProcess:
    """Plays the camera to the node that was started here, and writes down how it did."""
    given = context.launch_configurations
    model = given['model']
    return ExecuteProcess(
        name='player',
        cmd=[
            *module_command('mtl_perception.cli', 'replay', str(require_bag(given['bag']))),
            '--live', '--sim-time', '--speed', given['rate'],
            '--node', _node_name(context), '--output', given['report'],
            # Without it the command takes its default, which is the node's as well.
            *(['--model', model] if model else []),
        ],
        output='screen',
    )  # fmt: skip


def _played(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The bag is at its end: leave time for the last answers, then end everything."""
    if context.is_shutdown:
        return []
    if event.returncode:
        raise LaunchError(f'the player ended with code {event.returncode}; its reason is above')
    return [TimerAction(period=LAST_ANSWERS_S, actions=[Shutdown(reason='the bag is played')])]


def _recorder_ended(event: ProcessExited, context: LaunchContext) -> None:
    if not context.is_shutdown:
        raise LaunchError(f'`ros2 bag record` ended early (code {event.returncode}); see above')
