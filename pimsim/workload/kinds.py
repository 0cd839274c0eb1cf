"""Kinds of workload: what a file's ``kind`` may be, and the model that it must then fit."""

from __future__ import annotations

from pimsim.workload.attention_only import AttentionConfig
from pimsim.workload.config import AnyWorkload, WorkloadConfig
from pimsim.workload.encoder import EncoderConfig
from pimsim.workload.requests import RequestsConfig
from pimsim.workload.trace import TraceWorkload
from pimsim.workload.vision import VitConfig

WORKLOAD_KINDS: dict[str, type[AnyWorkload]] = {
    "decoder": WorkloadConfig,
    "attention": AttentionConfig,
    "trace": TraceWorkload,
    "encoder": EncoderConfig,
    "requests": RequestsConfig,
    "vit": VitConfig,
}
"""Kind -> model. A file without ``kind`` is of the first one."""


__all__ = ["WORKLOAD_KINDS"]
