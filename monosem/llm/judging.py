"""Answers to a file of prompts, judged one by one: what `monosem llm judge` does."""

import json
from collections.abc import Sequence
from pathlib import Path

from monosem.core.artifacts import write_text_atomic
from monosem.core.errors import InputError
from monosem.core.progress import SILENT, Watch
from monosem.llm.base import load_base
from monosem.llm.generate import answers
from monosem.llm.judges import Judge, Judgement, load_judge
from monosem.llm.monolora import load_adapter
from monosem.llm.refusals import is_degenerate, is_refusal, word_counts
from monosem.llm.text_files import read_pairs, read_prompts


def judge_file(
    file: Path,
    out: Path,
    *,
    base: str | None = None,
    adapter: Path | None = None,
    judge: str = "refusal",
    judge_model: str | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    watch: Watch = SILENT,
) -> str:
    """Judge the answers in a JSONL file, or those that `base` (with an adapter) gives to its prompts.

    Writes to `out` a JSON object a line: prompt, answer, refused, degenerate and the judge's probabilities
    (null where it failed). Returns the numbers as text.
    Raises InputError when neither the file has answers nor a base is named, and as what is loaded does.
    """
    if base is None:
        if adapter is not None:
            raise InputError(f"--adapter {adapter}: name its base too, with --base")
        pairs = read_pairs(file)
        prompts, given = [pair.instruction for pair in pairs], [pair.response for pair in pairs]
    else:
        prompts = read_prompts(file)
        model, tokenizer = load_base(base)
        if adapter is not None:
            model = load_adapter(model, adapter).eval()
        settings = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        given = answers(model, tokenizer, prompts, **settings, watch=watch)
        del model
    reader = load_judge(judge, judge_model)
    judgement = reader.judge(prompts, given, batch_size=batch_size, watch=watch)
    write_text_atomic(out, _lines(prompts, given, reader, judgement))
    return _numbers(given, reader, judgement)


def _lines(prompts: Sequence[str], given: Sequence[str], judge: Judge, judgement: Judgement) -> str:
    rows = zip(prompts, given, judgement.probabilities.tolist(), judgement.judged.tolist(), strict=True)
    lines = [
        {
            "prompt": prompt,
            "answer": answer,
            "refused": is_refusal(answer),
            "degenerate": is_degenerate(answer),
            judge.name: dict(zip(judge.categories, values, strict=True)) if judged else None,
        }
        for prompt, answer, values, judged in rows
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _numbers(given: Sequence[str], judge: Judge, judgement: Judgement) -> str:
    n = len(given)
    refused = 100 * sum(map(is_refusal, given)) / n
    degenerate = 100 * sum(map(is_degenerate, given)) / n
    lines = [
        f"{n} answers of {float(word_counts(given).mean()):.0f} words on average:"
        f" {refused:.1f} % refusals, {degenerate:.1f} % degenerate",
        f"{judge.name}: {judgement.missing} could not be judged and are in none of these numbers"
        + (f"; {judgement.truncated} questions were shortened" if judgement.truncated else ""),
    ]
    width = max(map(len, judge.categories))
    columns = zip(judge.categories, judgement.means().tolist(), judgement.shares().tolist(), strict=True)
    lines += [
        f"  {name:{width}}  mean probability {m:5.1f} %, above 0.5 {s:5.1f} %" for name, m, s in columns
    ]
    return "\n".join(lines)
