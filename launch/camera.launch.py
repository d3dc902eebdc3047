# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A camera and the perception node.

    ros2 launch mtl_perception camera.launch.py camera:=test_pattern overlay:=true
    ros2 launch mtl_perception camera.launch.py camera:=v4l2_camera video_device:=/dev/video2

Any other driver: start it yourself and give its topic, `image_topic:=/front/image_raw`. All
arguments of `perception.launch.py` are arguments here.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from mtl_perception.node.launch_checks import require_package, require_video_device

PERCEPTION = str(Path(__file__).with_name('perception.launch.py'))
RESPAWN_DELAY_S = 2.0
DRIVERS = {
    'test_pattern': ('mtl_perception', 'test_pattern'),
    'v4l2_camera': ('v4l2_camera', 'v4l2_camera_node'),
    'usb_cam': ('usb_cam', 'usb_cam_node_exe'),
}
"""Package and executable by value of `camera`; each publishes `image_raw` and what goes with it."""


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'camera',
                default_value='none',
                choices=['none', *DRIVERS],
                description='Camera driver to start. `none`: images come from elsewhere, on '
                'image_topic. `test_pattern`: a generated drive. Others: the package of that name.',
            ),
            DeclareLaunchArgument(
                'video_device',
                default_value='/dev/video0',
                description='Device of the camera, for v4l2_camera and usb_cam.',
            ),
            OpaqueFunction(function=_check_camera),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(PERCEPTION)),
            OpaqueFunction(function=_start_camera),
        ]
    )


def _check_camera(context: LaunchContext) -> None:
    """Before anything is started: is the driver installed, is the device there?"""
    given = context.launch_configurations
    camera = given['camera']
    if camera == 'none':
        return
    require_package(DRIVERS[camera][0], f'camera:={camera}')
    if camera != 'test_pattern':
        require_video_device(given['video_device'], camera)


def _start_camera(context: LaunchContext) -> list[Node]:
    """The driver, with its topics named after `image_topic`."""
    given = context.launch_configurations
    camera, topic = given['camera'], given['image_topic']
    if camera == 'none':
        return []
    package, executable = DRIVERS[camera]
    beside = topic.rpartition('/')[0]
    parameters = {} if camera == 'test_pattern' else {'video_device': given['video_device']}
    driver = Node(
        package=package,
        executable=executable,
        name='camera',
        namespace=given['namespace'],
        parameters=[parameters],
        remappings=[
            ('image_raw', topic),
            # A remapping holds for one name only, not for those below it.
            ('image_raw/compressed', f'{topic}/compressed'),
            ('camera_info', f'{beside}/camera_info' if beside else 'camera_info'),
        ],
        respawn=given['use_respawn'] == 'true',
        respawn_delay=RESPAWN_DELAY_S,
        output='screen',
    )
    return [driver]
