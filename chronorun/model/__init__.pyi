from .gpt import (
    GPT as GPT,
    GPTOutput as GPTOutput,
)
from .moe import (
    MoELayer as MoELayer,
)
from .population import (
    PopulationLayer as PopulationLayer,
    PopulationModel as PopulationModel,
    insert_expert as insert_expert,
    read_expert as read_expert,
    rebuild as rebuild,
    remove_expert as remove_expert,
)
from .router import (
    Router as Router,
)
from .shapes import (
    RouterLosses as RouterLosses,
    Routing as Routing,
)
from .twins import (
    Twin as Twin,
)
