"""Text written under a plan: prompts prefilled once, decoded on the device, for any plan through two executables.

`layout` cuts prompts into what is prefilled together; `cache` holds keys and values per executed layer instance;
`decode` is what is compiled; `serve` walks plans and keeps rows busy; `text` ends texts at stop strings; `written`
takes and gives texts. `settings` is what the checkpoint's `generation_config.json` asks for, `adjust` does it.
"""

from jaxpaint.generation.sampling import Sampling
from jaxpaint.generation.serve import Continuation, Prompt, generate
from jaxpaint.generation.settings import GenerationSettings

__all__ = ["Continuation", "GenerationSettings", "Prompt", "Sampling", "generate"]
