"""The demo model's tokenizer and text encoder, in the shape that ``comfy.sd.CLIP`` expects.

One word is one token. Prompts longer than `LENGTH` tokens become several sections, as with Stable Diffusion.
"""

import logging
import re
from typing import Any

import comfy.sd1_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vocabulary import ALIASES, FILLERS, OBJECTS, STYLES

log = logging.getLogger(__name__)

LENGTH = 16
WIDTH = 128
LAYERS = 2
HEADS = 4
PAD, START = 0, 1
WORDS = FILLERS + OBJECTS + STYLES
TOKENS = {word: i + 2 for i, word in enumerate(WORDS)}

TokenPairs = list[tuple[int, float]]


def split_words(text: str) -> tuple[list[str], list[str]]:
    """Return the known words of a text, aliases resolved, and those that are not known."""
    words = [ALIASES.get(word, word) for word in re.findall(r"[^\W\d_]+", text.lower())]
    return [word for word in words if word in TOKENS], [word for word in words if word not in TOKENS]


def padded(pairs: TokenPairs) -> TokenPairs:
    """Put the start token before the pairs and fill up to `LENGTH`."""
    section = [(START, 1.0), *pairs]
    return section + [(PAD, 1.0)] * (LENGTH - len(section))


def token_ids(text: str) -> list[int]:
    """Return the ids of a short text without weights, exactly `LENGTH` of them; what is longer is cut."""
    words, _ = split_words(text)
    return [token for token, _ in padded([(TOKENS[word], 1.0) for word in words[: LENGTH - 1]])]


class CanvasTokenizer:
    """Turns a prompt into sections of `LENGTH` pairs (token id, weight).

    Unknown words are left out and named in a warning, once for each text.
    """

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        self.warned: set[str] = set()

    def warn(self, text: str, unknown: list[str]) -> None:
        if not unknown or text in self.warned:
            return
        self.warned.add(text)
        log.warning(
            "Canvas Checkpoint does not know the words %s and ignores them. It knows the objects %s, "
            "the styles %s, and the words %s.",
            ", ".join(dict.fromkeys(unknown)),
            ", ".join(OBJECTS),
            ", ".join(STYLES),
            ", ".join(FILLERS),
        )

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **options: Any
    ) -> dict[str, list[list[tuple[Any, ...]]]]:
        """Return {"canvas": sections}; weights such as "(cat:1.2)" are understood."""
        parsed = [(text, 1.0)]
        if not options.get("disable_weights", False):
            parsed = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        pairs: TokenPairs = []
        unknown: list[str] = []
        for segment, weight in parsed:
            words, missing = split_words(comfy.sd1_clip.unescape_important(segment))
            pairs += [(TOKENS[word], weight) for word in words]
            unknown += missing
        self.warn(text, unknown)
        step = LENGTH - 1
        sections = [padded(pairs[i : i + step]) for i in range(0, max(len(pairs), 1), step)]
        if return_word_ids:
            return {"canvas": [[(*pair, i) for i, pair in enumerate(section)] for section in sections]}
        return {"canvas": sections}

    def untokenize(self, pairs: list[tuple[Any, ...]]) -> list[tuple[Any, str]]:
        words = ("", "", *WORDS)
        return [(pair, words[pair[0]]) for pair in pairs]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class TextLayer(nn.Module):
    """Self-attention and a feed-forward layer over [B, T, `WIDTH`]."""

    def __init__(self, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm1 = operations.LayerNorm(WIDTH, **factory)
        self.qkv = operations.Linear(WIDTH, 3 * WIDTH, **factory)
        self.out = operations.Linear(WIDTH, WIDTH, **factory)
        self.norm2 = operations.LayerNorm(WIDTH, **factory)
        self.up = operations.Linear(WIDTH, 4 * WIDTH, **factory)
        self.down = operations.Linear(4 * WIDTH, WIDTH, **factory)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(self.norm1(x)).reshape(batch, length, 3, HEADS, width // HEADS)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        # Sixteen tokens: plain attention is as fast as any kernel, and trains faster on a CPU.
        weights = (q @ k.transpose(-1, -2) * (width // HEADS) ** -0.5).softmax(dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TextEncoder(nn.Module):
    """Token ids [B, `LENGTH`] -> [B, `LENGTH`, `WIDTH`]."""

    def __init__(self, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.words = operations.Embedding(len(WORDS) + 2, WIDTH, **factory)
        self.positions = operations.Embedding(LENGTH, WIDTH, **factory)
        self.layers = nn.ModuleList(TextLayer(operations, **factory) for _ in range(LAYERS))
        self.norm = operations.LayerNorm(WIDTH, **factory)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class CanvasTextModel(nn.Module):
    """What ``comfy.sd.CLIP`` holds as its model: encodes weighted token pairs."""

    def __init__(self, device: Any = None, dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__()
        import comfy.ops

        self.dtypes = {dtype}
        self.encoder = TextEncoder(comfy.ops.disable_weight_init, device=device, dtype=dtype)

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Accept the host's options; a single output has no layer to choose."""

    def reset_clip_options(self) -> None:
        """Nothing is kept between prompts."""

    def encode_token_weights(self, tokens: dict[str, list[list[tuple[Any, ...]]]]) -> tuple[Tensor, Tensor]:
        """Return the conditioning [1, sections * `LENGTH`, `WIDTH`] and its mean [1, `WIDTH`], on the CPU side."""
        import comfy.model_management

        sections = tokens["canvas"]
        device = self.encoder.norm.weight.device
        ids = torch.tensor([[pair[0] for pair in section] for section in sections], device=device)
        weights = torch.tensor([[pair[1] for pair in section] for section in sections], device=device)
        out = self.encoder(ids).float()
        if bool((weights != 1.0).any()):
            empty = self.encoder(torch.tensor([token_ids("")], device=device)).float()
            out = empty + (out - empty) * weights[..., None]
        out = out.reshape(1, -1, out.shape[-1]).to(comfy.model_management.intermediate_device())
        return out, out.mean(dim=1)

    def load_sd(self, sd: dict[str, Tensor]) -> Any:
        return self.load_state_dict(sd, strict=False)
