"""The native operators, a module each: contract, reference in plain torch, native kernel.

They may import torch only. `native` loads the library that csrc is built into. Importing this
package registers the operators as `torch.ops.sign_ext`; `import sign_ext` alone does not.
"""

from sign_ext.ops.native import build_config
from sign_ext.ops.sign_update import (
    sign_update_,
    sign_update_reference_,
    sign_update_route,
)

__all__ = ["build_config", "sign_update_", "sign_update_reference_", "sign_update_route"]
