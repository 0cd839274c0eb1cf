"""Timelines: what every unit did when, for Perfetto, Chrome and waveform viewers. See ``docs/timeline.md``."""

from pimsim.report.timeline.build import DETAILS, Timeline
from pimsim.report.timeline.sinks import FORMATS, open_sink, sink_format
from pimsim.report.timeline.window import parse_window

__all__ = ["DETAILS", "FORMATS", "Timeline", "open_sink", "parse_window", "sink_format"]
