"""Loads the operators for CUDA tensors into this torch, GPU or not: no symbol of torch's CUDA libraries may be missing.
Without a driver the library has to say that it cannot serve.

python tests/load_cuda_library.py LIBRARY
"""

import ctypes
import sys

import torch

from unitrans.ops.libraries import LOAD_ERROR

assert LOAD_ERROR is None, LOAD_ERROR
torch.ops.load_library(sys.argv[1])
OPERATORS = (
    "attention_forward attention_backward attention_forward_eager attention_backward_into pair_bias_forward "
    "pair_bias_backward"
)
for name in OPERATORS.split():
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"unitrans::{name}", "CUDA"), name
why_not = ctypes.CDLL(sys.argv[1]).unitrans_cuda_why_not
why_not.restype = ctypes.c_char_p
reason = why_not()
assert torch.cuda.is_available() or b"the driver serves none" in reason, reason
print(f"{sys.argv[1]} loads into torch {torch.__version__}")
