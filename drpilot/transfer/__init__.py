"""Bytes on their way between unlike clouds: bundles, blocks and objects, as pipelines of sources and sinks."""
