"""Laws of an evaluation's passes: shards are of whole documents and add up, and a null finds nothing."""

import numpy as np
import pytest
import torch

from hf_tti.activations import ForwardPass, Site
from hf_tti.cross_entropy import DocumentShards, token_losses
from hf_tti.metrics.cosine_similarity import CosineSimilarity
from hf_tti.metrics.participation_ratio import ParticipationRatio
from hf_tti.metrics.token_selectivity import TokenSelectivity
from hf_tti.nulls import ShuffledTokens, rotated_forward
from hf_tti.passes import Found, Stream
from tiny import VOCAB, tiny_model, without_dropout

EOS = 0


def packed(num_documents: int = 45, block: int = 16, seed: int = 0) -> tuple[list[dict], list[list[int]]]:
    """Rows of `document EOS document EOS ...`, and the documents."""
    draw = np.random.default_rng(seed)
    documents = [[*draw.integers(1, VOCAB, size=draw.integers(1, 30)).tolist(), EOS] for _ in range(num_documents)]
    stream = [token for document in documents for token in document]
    return [{"input_ids": stream[i : i + block]} for i in range(0, len(stream), block)], documents


def stream(rows, **changes) -> Stream:
    settings = {"batch_size": 4, "rows_continue": True, "eos_token_id": EOS, "excluded_token_ids": ()}
    return Stream(rows=rows, metric_batches=None, **{**settings, **changes})


def one_by_one(model, rows, documents) -> tuple[np.ndarray, np.ndarray]:
    """Loss sums and token counts of 20 shards, token by token."""
    sums, counts = np.zeros(20), np.zeros(20, dtype=int)
    owner = [number for number, document in enumerate(documents) for _ in document]
    place = 0
    for row in rows:
        ids = torch.tensor(row["input_ids"])
        log_p = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for t, token in enumerate(row["input_ids"]):
            if t:
                sums[owner[place] % 20] -= float(log_p[t - 1, token])
                counts[owner[place] % 20] += 1
            place += 1
    return sums, counts


@torch.no_grad()
def test_shards_hold_whole_documents_that_cross_rows_and_batches():
    model = without_dropout().eval()
    rows, documents = packed()
    sums, counts = one_by_one(model, rows, documents)
    for batch_size in (1, 3, 100):
        found = Found()
        shards = stream(rows, batch_size=batch_size).measure(model, {}, (), found)
        assert shards.num_tokens == counts.tolist()
        assert shards.loss_sums == pytest.approx(sums, rel=1e-5)
        assert sum(shards.loss_sums) / sum(shards.num_tokens) == pytest.approx(found.metrics["loss"], rel=1e-12)


def test_rows_that_are_documents_of_their_own_are_shards_by_row():
    shards = DocumentShards(EOS, rows_continue=False, num_shards=4)
    ids = torch.arange(1, 31).view(6, 5)
    losses, predicted = torch.ones(6, 5), torch.ones(6, 5, dtype=torch.bool)
    shards.add(ids[:4], losses[:4], predicted[:4])
    shards.add(ids[4:], losses[4:], predicted[4:])
    assert shards.num_tokens.tolist() == [10, 10, 5, 5]


def test_a_tokens_loss_stands_at_its_own_place():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, -100, -100]])
    losses, predicted = token_losses(logits, labels)
    assert predicted.tolist() == [[False, True, True, True, True], [False, True, True, False, False]]
    assert losses[0, 3] == pytest.approx(-float(logits[0, 2].log_softmax(-1)[4]))
    assert (losses[~predicted] == 0).all()


METRICS = {
    "cosine": CosineSimilarity(),
    "ratio": ParticipationRatio(sites=("mlp.out",)),
    "selectivity": TokenSelectivity(),
}


@pytest.fixture(scope="module")
def found() -> Found:
    found = Found()
    rows, _ = packed(num_documents=200)
    stream(rows).measure(tiny_model(), METRICS, ("random_init", "rotated", "shuffled_labels"), found)
    return found


def test_every_null_says_what_it_can_and_no_more(found):
    assert found.nulls.keys() == {"random_init", "rotated", "shuffled_labels"}
    assert found.nulls["random_init"].keys() == found.metrics.keys()
    assert found.nulls["rotated"].keys() == found.metrics.keys() - {"loss", "perplexity", "num_tokens"}
    assert {key.split("/")[0] for key in found.nulls["shuffled_labels"]} == {"selectivity"}


def test_a_rotation_keeps_what_has_no_basis_and_shuffled_tokens_leave_nothing_to_select(found):
    rotated, shuffled = found.nulls["rotated"], found.nulls["shuffled_labels"]
    assert rotated["ratio/mean"] == pytest.approx(found.metrics["ratio/mean"], rel=1e-5)
    assert rotated["cosine/mean"] != pytest.approx(found.metrics["cosine/mean"], rel=2e-5)
    assert abs(shuffled["selectivity/mean"]) < 0.1 < found.metrics["selectivity/mean"]


def test_fresh_weights_know_nothing(found):
    assert found.nulls["random_init"]["loss"] == pytest.approx(np.log(VOCAB), abs=0.2)


def test_nulls_change_no_value_of_the_model():
    rows, _ = packed()
    plain, beside = Found(), Found()
    stream(rows).measure(tiny_model(), METRICS, (), plain)
    stream(rows).measure(tiny_model(), METRICS, ("random_init", "rotated", "shuffled_labels"), beside)
    assert plain.metrics == beside.metrics


def test_shuffled_tokens_are_the_same_tokens_and_stay_off_padding():
    ids = torch.arange(1, 13).view(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    shuffled = ShuffledTokens()(ForwardPass(ids, mask)).input_ids
    assert sorted(shuffled[mask].tolist()) == sorted(ids[mask].tolist())
    assert shuffled[mask].tolist() != ids[mask].tolist()
    assert torch.equal(shuffled[~mask], ids[~mask])


def test_a_rotated_forward_writes_the_same():
    generator = torch.Generator().manual_seed(0)
    site = Site(torch.randn(2, 3, 8, generator=generator), out_weight=torch.randn(8, 4, generator=generator))
    ids = torch.zeros(2, 3, dtype=torch.long)
    turned = rotated_forward(ForwardPass(ids, ids == 0, {"h.0.mlp.act": site})).sites["h.0.mlp.act"]
    writes = turned.activations @ turned.out_weight
    torch.testing.assert_close(writes, site.activations @ site.out_weight, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(turned.activations, site.activations, atol=0.1)
