"""A TorchScript module whose errors reach the user.

TorchForce freezes its module.  PyTorch (seen with 2.9) then forgets the functions that calls within the module were made
of, but still names them where an error is raised: out of memory, for one, ended the process without a word
(``InterpreterStateImpl::callstack``).  A module that is one function from the start has nothing to forget.
"""

import io
from typing import cast

import torch


def as_one_function(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The same module with all calls written out in its ``forward``.

    Args:
        module: its own ``forward`` is written out too, which changes nothing of what it does.
    """
    torch._C._jit_pass_inline(module.graph)  # noqa: SLF001 - public nowhere
    # What was written out remembers where it came from until it is read anew.
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return cast("torch.jit.ScriptModule", torch.jit.load(file))
