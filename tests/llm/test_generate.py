"""Batches with padding against one sample at a time without it, step by step and without a cache."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("peft", reason="needs monosem[llm]")

from peft import get_peft_model

from monosem.core.errors import MonosemError
from monosem.core.progress import SilentWatch
from monosem.llm import MonoLoraConfig, generate, record_activations
from monosem.llm.chat import Pair, encode_pairs, encode_prompts
from monosem.llm.generate import answers, choice_scores, prompt_batches, response_losses

Make = Callable[..., Any]

WORDS = ["good", "bad", "film", "the", "was", "a", "review", "is", "positive", "negative", ":", "?"]
SIZES = (1, 16)
CHOICES = ["positive", "a bad film", "negative", "a bad"]


def texts(n: int, longest: int, seed: int) -> list[str]:
    """Instructions of random words, of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (n,), generator=generator).tolist()
    draw = torch.randint(len(WORDS), (n, longest), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in row[:length]) for row, length in zip(draw, lengths, strict=True)]


QUESTIONS = texts(17, 30, seed=0)
PAIRS = [Pair(a, b) for a, b in zip(QUESTIONS, texts(17, 12, seed=1), strict=True)]


@pytest.fixture(params=["llama", "gemma", "monolora"])
def model(request: pytest.FixtureRequest, tiny_llama: Make, trained: Make) -> Any:
    settings = {"vocab_size": 16, "initializer_range": 0.4}
    if request.param == "gemma":
        from transformers import Gemma2Config, Gemma2ForCausalLM

        torch.manual_seed(0)
        return Gemma2ForCausalLM(
            Gemma2Config(
                **settings,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                sliding_window=8,
                tie_word_embeddings=False,
                attn_implementation="eager",
            )
        ).eval()
    base = tiny_llama(**settings)
    if request.param == "llama":
        return base
    return trained(get_peft_model(base, MonoLoraConfig(r=4, target_modules=["q_proj", "v_proj"]))).eval()


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> Any:
    return deepcopy(tiny_tokenizer)


@torch.no_grad()
def naive_tokens(model: nn.Module, prompt: list[int], steps: int, stops: set[int]) -> list[int]:
    """The likeliest token, again and again."""
    said: list[int] = []
    for _ in range(steps):
        token = int(model(input_ids=torch.tensor([prompt + said])).logits[0, -1].argmax())
        if token in stops:
            break
        said.append(token)
    return said


@torch.no_grad()
def naive_log_likelihood(model: nn.Module, prompt: list[int], said: list[int]) -> Tensor:
    """The sum over the tokens, each from a pass of its own."""
    total = torch.tensor(0.0)
    for place, token in enumerate(said):
        logits = model(input_ids=torch.tensor([prompt + said[:place]])).logits[0, -1]
        total += logits.log_softmax(-1)[token]
    return total


def test_answers_are_the_greedy_ones_up_to_a_stop(model: Any, tokenizer: Any) -> None:
    prompts, _ = encode_prompts(tokenizer, QUESTIONS, 100)
    # The word that the model says most often ends an answer, beside the token of the model's own settings.
    free = [naive_tokens(model, prompt, 6, stops=set()) for prompt in prompts]
    spoken = sorted(token for said in free for token in said)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(max(spoken, key=spoken.count))
    stops = {tokenizer.eos_token_id, model.generation_config.eos_token_id}
    naive = [naive_tokens(model, prompt, 6, stops) for prompt in prompts]
    assert len({len(said) for said in naive}) > 1
    expected = [tokenizer.decode(said, skip_special_tokens=True).strip() for said in naive]
    assert len(set(expected)) > 3
    for size in SIZES:
        assert answers(model, tokenizer, QUESTIONS, max_new_tokens=6, batch_size=size) == expected


def test_the_models_own_settings_of_generation_play_no_part(base: Any, tokenizer: Any) -> None:
    from transformers import GenerationConfig

    plain = answers(base, tokenizer, QUESTIONS, max_new_tokens=6)
    own = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        repetition_penalty=50.0,
        min_new_tokens=6,
        max_length=9,
        eos_token_id=[2],
    )
    base.generation_config = own
    assert answers(base, tokenizer, QUESTIONS, max_new_tokens=6) == plain
    assert base.generation_config is own
    wrapped = get_peft_model(base, MonoLoraConfig(r=4, target_modules=["q_proj"]))
    assert answers(wrapped, tokenizer, QUESTIONS, max_new_tokens=6) == plain
    assert base.generation_config is own
    base.generation_config.eos_token_id = None
    assert answers(base, tokenizer, QUESTIONS[:2], max_new_tokens=6) == plain[:2]


def test_choices_are_scored_as_one_by_one(model: Any, tokenizer: Any) -> None:
    prompts, _ = encode_prompts(tokenizer, QUESTIONS, 100)
    ids = [tokenizer(choice).input_ids for choice in CHOICES]
    naive = torch.stack(
        [torch.stack([naive_log_likelihood(model, prompt, said) for said in ids]) for prompt in prompts]
    )
    for size in SIZES:
        scores = choice_scores(model, tokenizer, QUESTIONS, CHOICES, batch_size=size)
        torch.testing.assert_close(scores, naive, rtol=0, atol=1e-4)
    assert (naive[:, 1] < naive[:, 3]).all()  # what goes on is less likely than its beginning


def test_single_tokens_after_a_prompt_are_read_once(base: Any, tokenizer: Any) -> None:
    seen: list[int] = []
    base.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    choice_scores(base, tokenizer, QUESTIONS, ["positive", "negative"], batch_size=4)
    assert sum(seen) == len(set(QUESTIONS))
    assert max(seen) == 4


def test_losses_are_those_of_the_responses(model: Any, tokenizer: Any) -> None:
    encoded = encode_pairs(tokenizer, PAIRS, 100)
    naive = []
    for ids, labels in zip(encoded.input_ids, encoded.labels, strict=True):
        with torch.no_grad():  # transformers' own loss, a mean over the labels that are not ignored
            naive.append(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss)
    for size in SIZES:
        sums, counts = response_losses(model, tokenizer, PAIRS, batch_size=size)
        assert counts.tolist() == [len(pair.response.split()) + 1 for pair in PAIRS]
        torch.testing.assert_close(sums / counts, torch.stack(naive), rtol=0, atol=1e-4)


def test_long_samples_are_truncated_and_told(base: Any, tokenizer: Any) -> None:
    class Watch(SilentWatch):
        def __init__(self) -> None:
            self.notices: list[str] = []
            self.seen: list[tuple[int, int]] = []

        def notice(self, message: str) -> None:
            self.notices.append(message)

        def progress(self, done: int, total: int, **_: float) -> None:
            self.seen.append((done, total))

    watch = Watch()
    questions = ["bad " * 50 + "good film", "good film"]
    first, second = answers(base, tokenizer, questions, max_new_tokens=4, max_length=6, watch=watch)
    assert first == second != ""
    assert watch.notices == [
        "1 of 2 samples were longer than 6 tokens; the beginning of their instruction was cut off"
    ]
    response_losses(base, tokenizer, PAIRS, watch=watch, batch_size=16)
    assert len(watch.notices) == 1
    done = [seen for seen, total in watch.seen[1:] if total == len(PAIRS)]
    assert watch.seen[0] == (2, 2)
    assert done == sorted(set(done))
    assert done[-1] == len(PAIRS)


@pytest.mark.parametrize("size", SIZES)
def test_batches_of_prompts_hold_them_all_and_little_padding(tokenizer: Any, size: int) -> None:
    order, batches = prompt_batches(tokenizer, QUESTIONS, size)
    encoded, _ = encode_prompts(tokenizer, QUESTIONS, 1024)
    read = [
        ids[mask.bool()].tolist()
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert read == [encoded[row] for row in order]
    assert sorted(order) == list(range(len(QUESTIONS)))
    for batch in batches:
        lengths = batch["attention_mask"].sum(1)
        assert len(lengths) <= size
        assert lengths.min() >= 0.8 * lengths.max()


def test_a_model_in_training_stays_as_it_was(tiny_llama: Make, tokenizer: Any) -> None:
    base = tiny_llama(vocab_size=16, attention_dropout=0.5)
    expected = choice_scores(base, tokenizer, QUESTIONS, CHOICES)
    base.train()
    base.model.layers[0].eval()
    modes = [part.training for part in base.modules()]
    torch.testing.assert_close(choice_scores(base, tokenizer, QUESTIONS, CHOICES), expected)
    assert [part.training for part in base.modules()] == modes
    # What was made under inference mode must not stand in the way of training.
    answers(base, tokenizer, QUESTIONS[:2], max_new_tokens=2)
    base(input_ids=torch.tensor([[4, 5]]), labels=torch.tensor([[4, 5]])).loss.backward()


def test_a_tokenizer_without_pad_token(base: Any, tokenizer: Any) -> None:
    expected = answers(base, tokenizer, QUESTIONS, max_new_tokens=4)
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    assert answers(base, tokenizer, QUESTIONS, max_new_tokens=4) == expected
    assert choice_scores(base, tokenizer, QUESTIONS, CHOICES).isfinite().all()


def test_activations_of_padding_are_not_recorded(tiny_llama: Make, trained: Make, tokenizer: Any) -> None:
    model = trained(get_peft_model(tiny_llama(vocab_size=16), MonoLoraConfig(r=4, target_modules=["q_proj"])))
    records = []
    for batch_size in (1, 16):
        with record_activations(model) as record:
            response_losses(model, tokenizer, PAIRS, batch_size=batch_size)
        records.append(record)
    one, many = records
    assert one.tokens == many.tokens
    assert one.zeros() == pytest.approx(many.zeros(), abs=1e-3)


def test_nothing_asked(base: Any, tokenizer: Any) -> None:
    assert answers(base, tokenizer, [], max_new_tokens=4) == []
    assert choice_scores(base, tokenizer, [], CHOICES).shape == (0, 4)
    sums, counts = response_losses(base, tokenizer, [])
    assert len(sums) == len(counts) == 0


def test_lack_of_memory_names_the_setting(base: Any, tokenizer: Any) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    base.register_forward_pre_hook(full)
    base.train()
    with pytest.raises(MonosemError, match="generating answers: out of memory; set batch_size lower"):
        answers(base, tokenizer, QUESTIONS, max_new_tokens=4)
    assert base.training


def test_what_all_texts_begin_with_is_read_once(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together as one by one, where nothing is shared; not where a memory forgets (sliding windows)."""
    head = "is the film good or bad ? the review was a good review : "
    questions = [head + tail for tail in ("", "the film was bad", "a", "good good good good", "the film")]
    pairs = [Pair(question, "good film" if i % 2 else "bad") for i, question in enumerate(questions)]
    shared: list[int] = []
    read = generate._read_beginning

    def spy(*args: Any) -> Any:
        found = read(*args)
        shared.append(found.length)
        return found

    monkeypatch.setattr(generate, "_read_beginning", spy)
    together = answers(model, tokenizer, questions, max_new_tokens=5, batch_size=3)
    scores = choice_scores(model, tokenizer, questions, ("good", "bad film"), batch_size=3)
    losses, _ = response_losses(model, tokenizer, pairs, batch_size=3)
    if "gemma" in type(model).__name__.lower():
        assert shared == [0, 0, 0]
    else:
        assert min(shared) > 8
    for i, question in enumerate(questions):
        assert answers(model, tokenizer, [question], max_new_tokens=5) == [together[i]]
        alone = choice_scores(model, tokenizer, [question], ("good", "bad film"))
        torch.testing.assert_close(alone[0], scores[i], atol=1e-5, rtol=1e-5)
        loss, _ = response_losses(model, tokenizer, [pairs[i]])
        torch.testing.assert_close(loss[0], losses[i], atol=1e-5, rtol=1e-5)
