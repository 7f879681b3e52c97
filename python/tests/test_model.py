# SPDX-License-Identifier: Apache-2.0
"""Text of the embedded model."""

import gc
import threading

import numpy as np
import pytest

from metal_marlin import MarlinError, Model, Session

from common import MODEL

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model():
    with Model(MODEL, threads=2) as m:
        yield m


def greedy(model, **options):
    return Session(model, temperature=0, **options)


def test_tokens_come_back(model):
    for text in ("", PROMPT, "Grüße, 世界 🐟", "a" * 3000):
        ids = model.tokenize(text)
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert model.detokenize(ids) == text
        assert model.detokenize(list(ids)) == text
    with pytest.raises(MarlinError):
        model.detokenize([-1])
    with pytest.raises(TypeError):
        model.detokenize([0.5])
    with pytest.raises(ValueError, match="32 bits"):
        model.detokenize([2**40])


def test_generate(model):
    with greedy(model) as s:
        pieces = []
        answer = s.generate(PROMPT, 24, on_text=pieces.append)
        assert answer.text == "".join(pieces) and answer.text
        assert 0 < len(answer.tokens) <= 24 and answer.finish in ("length", "stop")
        assert answer.prompt_tokens >= len(model.tokenize(PROMPT)) > 0
        assert s.length >= answer.prompt_tokens + len(answer.tokens) - 1 and s.length <= s.context
    with model.session(temperature=0) as s:
        again = s.generate(model.tokenize(PROMPT, add_bos=True), 24)
        assert again.tokens == answer.tokens


def test_two_requests_are_one_timeline(model):
    with greedy(model) as s:
        whole = s.generate(PROMPT, 12, ignore_eos=True)
    with greedy(model) as s:
        first = s.generate(PROMPT, 5, ignore_eos=True)
        second = s.generate(None, 7, ignore_eos=True)
    assert first.tokens + second.tokens == whole.tokens


def test_logits_choose_the_next_token(model):
    with greedy(model) as s:
        s.generate(PROMPT, 0)
        logits = s.logits()
        assert s.generate(None, 1, ignore_eos=True).tokens == [int(np.argmax(logits))]


def test_seeds(model):
    def text(seed):
        with Session(model, temperature=1.0, seed=seed) as s:
            return s.generate(PROMPT, 24, ignore_eos=True).tokens

    assert text(5) == text(5) != text(6)
    assert text(None) != text(None)


def test_stop_strings(model):
    with greedy(model) as s:
        whole = s.generate(PROMPT, 24).text
    stop = whole.strip().split(" ")[1]
    with greedy(model) as s:
        answer = s.generate(PROMPT, 24, stop=stop)
    assert answer.finish == "stop" and stop not in answer.text and whole.startswith(answer.text)


def test_stream(model):
    with greedy(model) as s:
        wanted = s.generate(PROMPT, 24)
    with greedy(model) as s:
        stream = s.stream(PROMPT, 24)
        assert "".join(stream) == wanted.text
        assert stream.answer is not None and stream.answer.tokens == wanted.tokens
        assert list(stream) == []


def test_a_stream_that_is_left_frees_the_session(model):
    with greedy(model) as s:
        with s.stream(PROMPT, 2000, ignore_eos=True) as stream:
            next(stream)
        assert stream.answer is not None and stream.answer.finish == "cancelled"
        assert len(stream.answer.tokens) < 2000
        assert s.generate(None, 3, ignore_eos=True).finish == "length"
        for _ in s.stream(None, 2000, ignore_eos=True):
            break
        gc.collect()
        assert s.generate(None, 3, ignore_eos=True).finish == "length"


def test_a_stream_raises_where_it_ends(model):
    with greedy(model, context=8) as s:
        with pytest.raises(MarlinError, match="context") as why:
            list(s.stream(PROMPT * 10, 4))
        assert why.value.status == "limit"
        assert s.length == 0


def test_callbacks_stop_and_raise(model):
    with greedy(model) as s:
        answer = s.generate(PROMPT, 24, on_text=lambda piece: False)
        assert answer.finish == "cancelled"

        def fail(piece):
            raise KeyError(piece)

        with pytest.raises(KeyError):
            s.generate(None, 24, on_text=fail)
        with pytest.raises(RuntimeError, match="runs on this session"):
            s.generate(None, 4, ignore_eos=True, on_text=lambda piece: s.generate("x", 1) and None)
        assert s.generate(None, 2, ignore_eos=True).finish == "length"


def test_cancel_from_another_thread(model):
    with greedy(model) as s:
        begun = threading.Event()
        thread = threading.Thread(target=lambda: (begun.wait(), s.cancel()))
        thread.start()
        answer = s.generate(PROMPT, 4000, ignore_eos=True, on_text=lambda piece: begun.set())
        thread.join()
        assert answer.finish == "cancelled"
        assert s.generate(None, 4, ignore_eos=True).finish == "cancelled"
        s.cancel(False)
        assert s.generate(None, 4, ignore_eos=True).finish == "length"


def test_closing_in_any_order():
    model = Model(MODEL, threads=1)
    session = greedy(model)
    model.close()
    with pytest.raises(ValueError, match="closed"):
        Session(model)
    assert session.generate(PROMPT, 2, ignore_eos=True).tokens
    closed_inside = session.generate(None, 4, ignore_eos=True, on_text=lambda piece: session.close())
    assert closed_inside.finish == "cancelled"
    with pytest.raises(ValueError, match="closed"):
        session.generate(None, 1)
    circle = [Model(MODEL, threads=1)]
    circle.append(greedy(circle[0]))
    circle.append(circle)
    del circle
    gc.collect()


def test_what_is_refused(model):
    with pytest.raises(MarlinError, match="/nonexistent/model") as why:
        Model("/nonexistent/model")
    assert why.value.status == "not_found"
    with pytest.raises(MarlinError, match="abacus"):
        Model(MODEL, device="abacus")
    with pytest.raises(MarlinError, match="top_p|top-p"):
        Session(model, top_p=7)
    with greedy(model) as s:
        with pytest.raises(ValueError, match="NUL"):
            s.generate("a\0b")
        with pytest.raises(ValueError, match="max_tokens"):
            s.generate("a", -1)
