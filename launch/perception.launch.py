# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Start the perception node. The other launch files include this one; nothing else starts it.

What the node does is in `params_file`; an argument that is given goes before the file, an empty
one changes nothing. Several cameras: list them as `cameras` in the file, and remap their topics
around an include of this file, `SetRemap('~/front/image', '/front/image_raw')`.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.events.process import ProcessExited
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from mtl_perception import shared_memory
from mtl_perception.bundle import find_bundle
from mtl_perception.engines import ENGINES
from mtl_perception.node.launch_checks import (
    LaunchError,
    require_file,
    require_package,
    require_topic,
)
from mtl_perception.node.parameter_table import BY_NAME

CONFIG = Path(__file__).parents[1] / 'config'
RESPAWN_DELAY_S = 2.0
BOOLEAN = ['true', 'false']
LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'fatal']
PARAMETERS = ('model', 'engine', 'precision', 'device', 'build', 'image_transport', 'autostart')
"""Parameters of the node that are arguments here, of the same name."""
SHOWN_TOPICS = ('overlay', 'drivable')
"""What config/perception.rviz shows, below `/perception/`."""


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of the node and its topics.'
        ),
        DeclareLaunchArgument(
            'image_topic',
            default_value='camera/image_raw',
            description='Where the images come from (remaps ~/image), without `/compressed`. A '
            'relative name is below the namespace.',
        ),
        DeclareLaunchArgument(
            'params_file',
            default_value=str(CONFIG / 'perception.param.yaml'),
            description='Parameters of the node (YAML).',
        ),
        *(_parameter_argument(name) for name in PARAMETERS),
        DeclareLaunchArgument(
            'use_sim_time',
            default_value='',
            choices=['', *BOOLEAN],
            description='Take the time from /clock. Empty: as in params_file.',
        ),
        DeclareLaunchArgument(
            'use_respawn',
            default_value='false',
            choices=BOOLEAN,
            description=f'Start a process that ended again after {RESPAWN_DELAY_S:g} s. Without '
            'it, a node that fails ends the launch.',
        ),
        DeclareLaunchArgument(
            'log_level',
            default_value='info',
            choices=LOG_LEVELS,
            description='What the node logs, and what is more severe.',
        ),
        DeclareLaunchArgument(
            'overlay',
            default_value='false',
            choices=BOOLEAN,
            description='Show ~/overlay in a window (image_tools). The node draws the overlay only '
            'while somebody listens, so there is nothing to switch off without it.',
        ),
        DeclareLaunchArgument(
            'rviz',
            default_value='false',
            choices=BOOLEAN,
            description='Show ~/overlay in RViz (config/perception.rviz).',
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_start)])


def _parameter_argument(name: str) -> DeclareLaunchArgument:
    """Argument with the description and choices of the node's own parameter table."""
    parameter = BY_NAME[name]
    if name == 'autostart':  # the file's default is for people who start the node by hand
        return DeclareLaunchArgument(
            name, default_value='true', choices=BOOLEAN, description=parameter.description
        )
    choices = BOOLEAN if parameter.type_name == 'boolean' else list(parameter.choices)
    if name == 'engine':
        choices = ['auto', *ENGINES]
    return DeclareLaunchArgument(
        name,
        default_value='',
        choices=['', *choices] if choices else None,
        description=f'{parameter.description} Empty: as in params_file.',
    )


def _start(context: LaunchContext) -> list[Node]:
    """Check what the arguments ask for, then the node and the windows."""
    given = context.launch_configurations
    params_file = require_file(given['params_file'], 'params_file')
    require_topic('namespace', given['namespace'], empty=True)
    require_topic('image_topic', given['image_topic'])
    if given['model']:
        find_bundle(given['model'])
    # In the environment of all that is started from here on: the camera driver needs it as well.
    shared_memory.use_profile(context.environment)
    respawn = given['use_respawn'] == 'true'
    overrides = {
        name: _value(name, given[name]) for name in (*PARAMETERS, 'use_sim_time') if given[name]
    }
    node = Node(
        package='mtl_perception',
        executable='perception_node',
        name='perception',
        namespace=given['namespace'],
        parameters=[str(params_file), overrides],
        remappings=[('~/image', given['image_topic'])],
        ros_arguments=['--log-level', given['log_level']],
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY_S,
        on_exit=None if respawn else _ended,
        output='screen',
    )
    return [*_windows(given), node]


def _windows(given: dict[str, str]) -> list[Node]:
    """What the arguments `overlay` and `rviz` open."""
    windows = []
    if given['overlay'] == 'true':
        require_package('image_tools', 'overlay:=true')
        windows.append(
            Node(
                package='image_tools',
                executable='showimage',
                name='overlay_window',
                namespace=given['namespace'],
                remappings=[('image', 'perception/overlay')],
                # It logs a line for every image at level info.
                ros_arguments=['--log-level', 'warn'],
                output='screen',
            )
        )
    if given['rviz'] == 'true':
        require_package('rviz2', 'rviz:=true')
        windows.append(
            Node(
                package='rviz2',
                executable='rviz2',
                name='rviz2',
                namespace=given['namespace'],
                arguments=['--display-config', str(CONFIG / 'perception.rviz')],
                parameters=[{'use_sim_time': given['use_sim_time'] == 'true'}],
                # The file has absolute names; these go below the namespace.
                remappings=[(f'/perception/{name}', f'perception/{name}') for name in SHOWN_TOPICS],
                output='screen',
            )
        )
    return windows


def _value(name: str, text: str) -> bool | ParameterValue:
    if name in BY_NAME and BY_NAME[name].type_name == 'string':
        return ParameterValue(text, value_type=str)  # or `device:=0` would be a number
    return text == 'true'


def _ended(event: ProcessExited, context: LaunchContext) -> None:
    """Without respawn: a node that failed ends the launch, with an exit code that says so."""
    if event.returncode and not context.is_shutdown:
        raise LaunchError(
            f'the perception node ended with code {event.returncode}; what it said is above. '
            f'use_respawn:=true starts it again'
        )
