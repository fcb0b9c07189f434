"""The whole model: it reads a user's history as frozen item embeddings and scores a candidate.

    item   x = W LN(v) [+ id]                v: the concatenated vectors of all tables; learned where there is none
    event  e = Σ_h (x ∘ g_h + b_h) + a       over the histories h that have the event; a: vector of its log-age bucket
    state  u = encoder(e_1 ... e_L)          the interest of the user at the as-of time [, given the candidate]
    logit    = u·x/√D + w·x + w'·u + b       x of the candidate; if u depends on it: u·x/√D + MLP([x, u, x ∘ u])

Sources: decayed means are technique 1. GRU: Hidasi et al., Session-based recommendations with recurrent neural
networks, 2016. Attention: Zhou et al., Deep interest network, 2018. Transformer: Xia et al., TransAct, 2023. Hashed
ids: Weinberger et al., Feature hashing, 2009. Ids hidden in training, so that the model works for new items: Volkovs
et al., DropoutNet, 2017.

B rows, L events (the newest last, then padding), D dim, H histories, V length of the concatenated vectors, T tables.
`noise` is the random generator of dropout in training, a separate one for each micro-batch; None = no dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from extembed_cli.neural.config import AGE_BUCKETS, Architecture
from extembed_cli.neural.events import PaddedRows


@dataclass(frozen=True)
class Items:
    """The inputs of N items: nothing of them is learned."""

    vectors: Tensor
    """(N, V) float32: the concatenated vectors of all tables; zero where there is none"""
    known: Tensor
    """(N, T) bool: whether a table has the item"""
    buckets: Tensor
    """(N) int64: hash buckets of the ids"""

    def to(self, device: str) -> Items:
        """Return a copy on a device."""
        return Items(self.vectors.to(device), self.known.to(device), self.buckets.to(device))


@dataclass(frozen=True)
class ExampleBatch:
    """B candidates and their L events, as indices into some items."""

    candidates: Tensor
    """(B) int64"""
    events: Tensor
    """(B, L) int64; any index in the padding"""
    members: Tensor
    """(B, L, H) bool: whether an event is in a history; False in the padding"""
    ages: Tensor
    """(B, L) float64: seconds from the event to the as-of time"""
    values: Tensor | None = None
    """(B, L, 2 V) float32: standardized values, 0 for null, then whether each is known; None = the model reads none"""

    @classmethod
    def of(cls, rows: PaddedRows) -> ExampleBatch:
        """Return arrays as tensors."""
        candidates, events = rows.candidates.astype(np.int64), rows.events.astype(np.int64)
        batch = cls(*map(torch.from_numpy, (candidates, events, rows.members, rows.ages)))
        if rows.values is None:
            return batch
        known = ~np.isnan(rows.values)
        values = np.concatenate([np.where(known, rows.values, 0), known], axis=2, dtype=np.float32)
        return replace(batch, values=torch.from_numpy(values))

    @property
    def visible(self) -> Tensor:
        """(B, L) bool"""
        return self.members.any(2)

    def at(self, indices: Tensor) -> ExampleBatch:
        """Return the rows with indices into other items: (B L + B), of the events, then of the candidates."""
        events = indices[: self.events.numel()].view_as(self.events)
        return replace(self, candidates=indices[self.events.numel() :], events=events)

    def to(self, device: str) -> ExampleBatch:
        """Return a copy on a device."""
        parts = (self.candidates, self.events, self.members, self.ages)
        moved = ExampleBatch(*(part.to(device) for part in parts))
        return replace(moved, values=None if self.values is None else self.values.to(device))


def dropped(x: Tensor, share: float, noise: Generator | None) -> Tensor:
    """Return x with a share of its numbers set to 0 (in steps of 1/256) and the others scaled up: dropout."""
    kept = round(256 * (1 - share))
    if noise is None or kept == 256:
        return x
    # One random byte for each number: Bernoulli draws are 20 times slower and would take most of a step.
    words = torch.empty(x.numel() // 8 + 1, dtype=torch.int64, device=x.device)
    drawn = words.random_(-(2**63), None, generator=noise).view(torch.uint8)[: x.numel()].view(x.shape)
    return x * (drawn < kept) * (256 / kept)


class Adapter(nn.Module):
    """Maps frozen vectors to the model's own space."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.widths = list(a.widths)
        width = sum(a.widths)
        self.missing = nn.Parameter(torch.zeros(width))  # the vector of an item without one
        self.mean, self.whitening = None, None
        if a.whiten:  # computed from the tables, not learned
            self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
            self.whitening = nn.Parameter(torch.eye(width), requires_grad=False)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, a.dim)
        # Sparse: gradients only of the ids in a batch.
        self.ids = nn.Embedding(a.id_buckets, a.dim, sparse=True) if a.id_buckets else None
        self.id_dropout = a.id_dropout
        if self.ids is not None:
            nn.init.zeros_(self.ids.weight)  # so that a bucket without training events adds nothing

    def set_whitening(self, mean: Tensor, whitening: Tensor) -> None:
        """Set the transformation (v − mean) W, which makes the dimensions uncorrelated with variance 1."""
        assert self.mean is not None
        assert self.whitening is not None
        self.mean.data.copy_(mean)
        self.whitening.data.copy_(whitening)

    def forward(self, items: Items, noise: Generator | None = None) -> Tensor:
        vectors, missing = torch.split(items.vectors, self.widths, 1), torch.split(self.missing, self.widths)
        parts = zip(items.known.T[..., None], vectors, missing, strict=True)  # by table: (N, 1), (N, V), (V)
        v = torch.cat([torch.where(*part) for part in parts], 1)  # (N, V)
        if self.mean is not None and self.whitening is not None:
            v = (v - self.mean) @ self.whitening  # (N, V)
        x: Tensor = self.linear(self.norm(v))  # (N, D)
        if self.ids is not None:
            ids = self.ids(items.buckets)  # (N, D)
            if noise is not None:
                kept = torch.rand(len(ids), 1, device=ids.device, generator=noise) >= self.id_dropout  # (N, 1)
                ids = ids * kept  # (N, D)
            x = x + ids  # (N, D)
        return x


class Events(nn.Module):
    """Combines the item, the histories, the values and the age of each event to one vector."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(a.histories, a.dim))
        self.shift = nn.Parameter(torch.randn(a.histories, a.dim) * 0.02)
        self.age = nn.Embedding(AGE_BUCKETS, a.dim)
        nn.init.normal_(self.age.weight, std=0.02)
        self.values = None
        if a.values:  # they scale the item and shift the event, as histories do
            self.values = nn.Linear(2 * a.values, 2 * a.dim, bias=False)
            nn.init.normal_(self.values.weight, std=0.02)

    def forward(self, x: Tensor, rows: ExampleBatch) -> Tensor:  # x (B, L, D)
        members = rows.members.to(x.dtype)  # (B, L, H)
        bucket = (2 * torch.log2(1 + rows.ages)).long().clamp(0, AGE_BUCKETS - 1)  # (B, L): half octaves of seconds
        gain, shift = members @ self.gain, members @ self.shift  # (B, L, D) each
        if self.values is not None:
            more_gain, more_shift = self.values(rows.values).chunk(2, 2)  # (B, L, D) each
            gain, shift = gain + more_gain, shift + more_shift
        e: Tensor = x * gain + shift + self.age(bucket)  # (B, L, D)
        return e


class DecayedMean(nn.Module):
    """The mean of the items of each history, weighted by 2^(-age / half-life) with learned half-lives: technique 1."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.log2_half_life = nn.Parameter(torch.linspace(17, 25, a.half_lives).repeat(a.histories, 1))  # s: 1.5 d, 1 y
        self.mix = nn.Linear(a.histories * a.half_lives * (a.dim * (1 + a.values) + 1), a.dim)

    def means(self, x: Tensor, rows: ExampleBatch) -> tuple[Tensor, Tensor]:
        """Return means (B, H, K, D) of items x (B, L, D), zero for an empty history, and sums of weights (B, H, K).

        With values the means of x times each value (B, H, K, D) follow: (B, H, K, D (1 + V)).
        """
        members = rows.members.transpose(1, 2)  # (B, H, L)
        ages = rows.ages[:, None].masked_fill(~members, math.inf)  # (B, H, L)
        newest = ages.amin(2, keepdim=True)  # only ratios of weights count: weights of old events must not underflow
        age = (ages - newest).masked_fill(~members, 0).to(x.dtype)  # (B, H, L)
        weights = torch.exp2(-age[:, :, None] / torch.exp2(self.log2_half_life)[:, :, None])  # (B, H, K, L)
        weights = weights * members[:, :, None]
        total = weights.sum(3)  # (B, H, K)
        shares = weights / total[..., None].clamp_min(1e-30)  # (B, H, K, L)
        if rows.values is not None:
            values, _ = rows.values.chunk(2, 2)  # (B, L, V)
            x = torch.cat([x[:, :, None], values[..., None] * x[:, :, None]], 2).flatten(2)  # (B, L, (1 + V) D)
        return torch.einsum("bhkl,bld->bhkd", shares, x), total

    def forward(self, x: Tensor, rows: ExampleBatch, _c: Tensor | None, _noise: Generator | None) -> Tensor:
        means, total = self.means(x, rows)  # (B, H, K, D), (B, H, K)
        state: Tensor = self.mix(torch.cat([means.flatten(1), total.log1p().flatten(1)], 1))  # (B, D)
        return state


class Recurrent(nn.Module):
    """A GRU over the events, oldest first; its state is that after the newest event."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.events = Events(a)
        self.gru = nn.GRU(a.dim, a.dim, batch_first=True)

    def forward(self, x: Tensor, rows: ExampleBatch, _c: Tensor | None, _noise: Generator | None) -> Tensor:
        states, _ = self.gru(self.events(x, rows))  # (B, L, D): padding comes after the events
        last = rows.visible.sum(1).clamp_min(1) - 1  # (B)
        state: Tensor = states[torch.arange(len(last)), last]  # (B, D)
        return state


class Attention(nn.Module):
    """The mean of the events, weighted by a small network of each event and the candidate (DIN)."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.events = Events(a)
        self.unit = nn.Sequential(nn.Linear(3 * a.dim, a.dim // 2), nn.GELU(), nn.Linear(a.dim // 2, a.heads))

    def forward(self, x: Tensor, rows: ExampleBatch, c: Tensor, _noise: Generator | None) -> Tensor:  # c (B, D)
        e = self.events(x, rows)  # (B, L, D)
        candidate = c[:, None].expand_as(e)  # (B, L, D)
        logits = self.unit(torch.cat([e, candidate, e * candidate], 2))  # (B, L, heads)
        logits = logits.masked_fill(~rows.visible[:, :, None], -1e9)
        weights = logits.softmax(1)  # (B, L, heads)
        parts = e.unflatten(2, (weights.shape[2], -1))  # (B, L, heads, D / heads)
        return torch.einsum("blh,blhd->bhd", weights, parts).flatten(1)  # (B, D)


class Block(nn.Module):
    """A pre-norm layer of a transformer; the last layer computes the first token only."""

    def __init__(self, a: Architecture, *, first_only: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.first_only = a.heads, a.dropout, first_only
        self.norm1, self.norm2 = nn.LayerNorm(a.dim), nn.LayerNorm(a.dim)
        self.query, self.key_value = nn.Linear(a.dim, a.dim), nn.Linear(a.dim, 2 * a.dim)
        self.project = nn.Linear(a.dim, a.dim)
        self.mlp = nn.Sequential(nn.Linear(a.dim, 2 * a.dim), nn.GELU(), nn.Linear(2 * a.dim, a.dim))

    def forward(self, z: Tensor, seen: Tensor, noise: Generator | None) -> Tensor:  # z (B, M, D), seen (B, M) bool
        normed = self.norm1(z)  # (B, M, D)
        if self.first_only:
            z = z[:, :1]  # (B, 1, D)
        h, m = self.heads, z.shape[1]  # m = 1 for the first token only, else M
        q = self.query(normed[:, :m]).unflatten(2, (h, -1)).transpose(1, 2)  # (B, h, m, D / h)
        k, v = self.key_value(normed).unflatten(2, (2, h, -1)).permute(2, 0, 3, 1, 4)  # (B, h, M, D / h) each
        read = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])  # (B, h, m, D / h)
        z = z + dropped(self.project(read.transpose(1, 2).flatten(2)), self.dropout, noise)  # (B, m, D)
        return z + dropped(self.mlp(self.norm2(z)), self.dropout, noise)  # (B, m, D)


class Transformer(nn.Module):
    """A transformer over [candidate, events] (TransAct), or over [a learned token, events]."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.events = Events(a)
        self.token = nn.Parameter(torch.randn(a.dim) * 0.02)  # marks the candidate, or replaces it
        self.blocks = nn.ModuleList(Block(a, first_only=i == a.layers - 1) for i in range(a.layers))
        self.norm = nn.LayerNorm(a.dim)
        self.recency_mask_s, self.recency_mask_share = a.recency_mask_s, a.recency_mask_share

    def forward(self, x: Tensor, rows: ExampleBatch, c: Tensor | None, noise: Generator | None) -> Tensor:
        e, seen = self.events(x, rows), rows.visible  # (B, L, D), (B, L)
        if noise is not None:  # hide the newest events in some rows, to learn interests and not the last click
            share, draw = torch.rand(2, len(e), 1, device=e.device, generator=noise)  # (B, 1) each
            seen = seen & (rows.ages >= share * self.recency_mask_s * (draw < self.recency_mask_share))
        first = self.token.expand(len(e), 1, -1)  # (B, 1, D)
        if c is not None:
            first = first + c[:, None]
        z, seen = torch.cat([first, e], 1), functional.pad(seen, (1, 0), value=True)  # (B, 1 + L, D), (B, 1 + L)
        for block in self.blocks:
            z = block(z, seen, noise)  # (B, 1 + L, D), after the last layer (B, 1, D)
        state: Tensor = self.norm(z[:, 0])  # (B, D)
        return state


class Model(nn.Module):
    """The adapter of items, the encoder of events, and the score."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.a = a
        self.adapter = Adapter(a)
        encoders = {"mean": DecayedMean, "gru": Recurrent, "attention": Attention, "transformer": Transformer}
        self.encoder = encoders[a.encoder](a)
        self.scale = a.dim**-0.5
        if a.reads_candidate:
            self.compare, self.score = nn.Linear(3 * a.dim, a.dim), nn.Linear(a.dim, 1)
        else:
            self.of_item, self.of_user = nn.Linear(a.dim, 1, bias=False), nn.Linear(a.dim, 1)

    def forward(self, adapted: Tensor, rows: ExampleBatch, noise: Generator | None = None) -> Tensor:
        """Return logits (B); adapted (N, D): the items that the indices of `rows` refer to."""
        c = adapted[rows.candidates]  # (B, D)
        if not self.a.reads_candidate:
            return self.dot(self.state(adapted, rows, None, noise), c)
        u = self.state(adapted, rows, c, noise)  # (B, D)
        compared = functional.gelu(self.compare(torch.cat([c, u, u * c], 1)))  # (B, D)
        logit: Tensor = (u * c).sum(1) * self.scale + self.score(dropped(compared, self.a.dropout, noise))[:, 0]  # (B)
        return logit

    def state(
        self, adapted: Tensor, rows: ExampleBatch, c: Tensor | None = None, noise: Generator | None = None
    ) -> Tensor:
        """Return the states (B, D) of users, given the candidates c (B, D) if the encoder reads them."""
        x = dropped(adapted[rows.events], self.a.dropout, noise)  # (B, L, D)
        u: Tensor = self.encoder(x, rows, c, noise)
        return u

    def dot(self, u: Tensor, c: Tensor) -> Tensor:
        """Return logits (B) of states u (B, D) and candidates c (B, D): linear in c, so that a user has a vector."""
        vectors, bias = self.user_vectors(u)
        return (vectors * c).sum(1) + bias

    def user_vectors(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (B, D) and biases (B) of states u (B, D): logit = vector · item + bias."""
        return u * self.scale + self.of_item.weight[0], self.of_user(u)[:, 0]
