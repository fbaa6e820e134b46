"""Loads without torch's default dtype, which belongs to the whole process: engines compute beside them.

While transformers makes the layers of a model it sets that default to the model's dtype. Here the thread that
loads sees such a default, and no other thread does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import modeling_utils

# transformers patches its own classes and torch.nn while it loads: of two loads at once, each would take away
# what the other has patched.
_load_lock = threading.RLock()

# Makers of tensors of floats, unless a dtype is named, and makers of tensors that may be of floats.
FLOATS = frozenset(
    {
        torch.empty, torch.empty_permuted, torch.empty_strided, torch.zeros, torch.ones, torch.eye,
        torch.linspace, torch.logspace, torch.rand, torch.randn,
    }
)  # fmt: skip
NUMBERS = frozenset(
    {
        torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.full, torch.arange,
        torch.normal,
    }
)  # fmt: skip


@contextmanager
def thread_local_default_dtype() -> Iterator[None]:
    """Inside, loads by transformers set a default dtype for this thread alone."""
    with _load_lock:
        theirs = modeling_utils.local_torch_dtype
        modeling_utils.local_torch_dtype = default_dtype
        try:
            yield
        finally:
            modeling_utils.local_torch_dtype = theirs


@contextmanager
def default_dtype(dtype: torch.dtype, model_class_name: str | None = None) -> Iterator[None]:
    """A default dtype for this thread alone, with the signature of transformers' `local_torch_dtype`."""
    if not dtype.is_floating_point:
        raise ValueError(f"{model_class_name or 'a model'} cannot be made with the dtype {dtype}")
    process_wide, own_thread = torch.get_default_dtype, threading.get_ident()

    def asked() -> torch.dtype:
        return dtype if threading.get_ident() == own_thread else process_wide()

    torch.get_default_dtype = asked
    try:
        with _Default(dtype, instead_of=process_wide()):
            yield
    finally:
        torch.get_default_dtype = process_wide


class _Default(TorchFunctionMode):  # modes belong to the thread that enters them
    """Names the dtype for calls that make floats and leave it open."""

    def __init__(self, dtype: torch.dtype, *, instead_of: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._instead_of = instead_of

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if named.get("dtype") is not None or named.get("out") is not None:
            return func(*args, **named)
        if func in FLOATS:
            return func(*args, **{**named, "dtype": self._dtype})
        made = func(*args, **named)
        if func not in NUMBERS or any(isinstance(arg, Tensor | np.ndarray) for arg in args):
            return made
        return made.to(self._dtype) if made.dtype == self._instead_of else made
