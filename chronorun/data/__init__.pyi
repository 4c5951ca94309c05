from .batches import (
    domain_batches as domain_batches,
    fixed_batches as fixed_batches,
    probe_batch as probe_batch,
    train_batch as train_batch,
)
from .bigram import (
    bigram_nats_per_token as bigram_nats_per_token,
)
from .corpus import (
    TokenizedCorpus as TokenizedCorpus,
    TokenSplit as TokenSplit,
    load_corpus as load_corpus,
)
from .tokenizer import (
    Tokenizer as Tokenizer,
    load_tokenizer as load_tokenizer,
)
