"""Kinds of workload: what a file's ``kind`` may be, and the model that it must then fit."""

from __future__ import annotations

from pimsim.registry import Lazy
from pimsim.workload.config import AnyWorkload

WORKLOAD_KINDS: Lazy[type[AnyWorkload]] = Lazy(
    {
        "decoder": "pimsim.workload.config:WorkloadConfig",
        "attention": "pimsim.workload.attention_only:AttentionConfig",
        "trace": "pimsim.workload.trace:TraceWorkload",
        "encoder": "pimsim.workload.encoder:EncoderConfig",
        "requests": "pimsim.workload.requests:RequestsConfig",
        "classifier": "pimsim.workload.classifier:ClassifierConfig",
        "vit": "pimsim.workload.vision:VitConfig",
    }
)
"""Kind -> model. A file without ``kind`` is of the first one."""


__all__ = ["WORKLOAD_KINDS"]
