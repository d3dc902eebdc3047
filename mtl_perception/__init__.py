"""Multi-task driving perception: one shared trunk, many heads, ROS 2 topics out."""

__version__ = '0.1.0'
