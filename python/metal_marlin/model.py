# SPDX-License-Identifier: Apache-2.0
"""Language models: text and token ids in, text out, whole or as it comes."""

from __future__ import annotations

import ctypes
import os
import queue
import secrets
import threading
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_size_t, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Optional, Sequence, Union

from . import _library as _lib

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int32]
    Prompt = Union[str, Sequence[int], IntArray, None]
else:
    from ._numpy import np

_SPECIAL, _ADD_BOS = 1, 2
_FINISH = ("length", "stop", "cancelled")


def _ids(ids: Union[Sequence[int], IntArray]) -> IntArray:
    a = np.asarray(ids)
    if a.ndim != 1 or (a.size and a.dtype.kind not in "iu"):
        raise TypeError(f"ids of shape {a.shape} and type {a.dtype}: a list of whole numbers is needed")
    if a.size and (a.min() < -(2**31) or a.max() >= 2**31):
        raise ValueError("an id does not fit into 32 bits")
    return np.ascontiguousarray(a, dtype=np.int32)


@dataclass(frozen=True)
class Answer:
    """What a request gave. finish: "length", "stop" or "cancelled"."""

    text: str
    tokens: List[int]
    finish: str
    prompt_tokens: int
    prompt_seconds: float
    completion_seconds: float


class Model:
    """A loaded model and its tokenizer. Any thread; any number of sessions.

    directory: in Hugging Face layout, plain or quantized. threads: 0 = one per core. cache_type: of sessions' keys
    and values, "f32", "f16" or "int8".
    """

    def __init__(
        self,
        directory: Union[str, "os.PathLike[str]"],
        *,
        threads: int = 0,
        device: Optional[str] = None,
        cache_type: Optional[str] = None,
    ) -> None:
        options = _lib.ModelOptions(
            threads=threads,
            device=None if device is None else _lib.encode_text(device, "device"),
            cache_type=None if cache_type is None else _lib.encode_text(cache_type, "cache_type"),
        )
        out = c_void_p()
        _lib.call("marlin_model_open", _lib.encode_path(directory), byref(options), byref(out))
        self._handle = _lib.Handle(out.value, _lib.library().marlin_model_close)

    def tokenize(self, text: str, *, special: bool = False, add_bos: bool = False) -> IntArray:
        """The ids of a text. special: special tokens that are written out are those tokens, as in a chat
        template; right for what users type is False."""
        data = text.encode("utf-8")
        flags = (_SPECIAL if special else 0) | (_ADD_BOS if add_bos else 0)
        ids = np.empty(len(data) + 16, np.int32)
        n = c_size_t()
        with self._handle.use() as pointer:
            for _ in range(2):
                try:
                    _lib.call(
                        "marlin_tokenize", pointer, data, len(data), flags, ids.ctypes.data, len(ids), byref(n)
                    )
                    break
                except _lib.MarlinError as why:
                    if why.status != "limit" or n.value <= len(ids):
                        raise
                    ids = np.empty(n.value, np.int32)
        return ids[: n.value].copy()

    def detokenize(self, ids: Union[Sequence[int], IntArray], *, special: bool = False) -> str:
        """The text of ids, special tokens left out or spelled out. Ids that are a part of a character become
        U+FFFD."""
        a = _ids(ids)
        text = ctypes.create_string_buffer(16 * len(a) + 64)
        n = c_size_t()
        with self._handle.use() as pointer:
            for _ in range(2):
                try:
                    _lib.call(
                        "marlin_detokenize", pointer, a.ctypes.data, len(a), special, text, len(text), byref(n)
                    )
                    break
                except _lib.MarlinError as why:
                    if why.status != "limit" or n.value <= len(text):
                        raise
                    text = ctypes.create_string_buffer(n.value)
        return text.raw[: n.value].decode("utf-8", "replace")

    def session(self, **options: Any) -> "Session":
        """A new session; options are those of Session."""
        return Session(self, **options)

    def close(self) -> None:
        """No new sessions. The memory goes when the last session is closed. A later use is a ValueError."""
        self._handle.release()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Session:
    """One timeline of tokens on a model. One request at a time; cancel and close may come from any thread.

    context: most tokens of the timeline, 0 = the model's own, at most 4096. What is None is the model's default.
    temperature 0 = greedy. seed None = a new one each time.
    """

    def __init__(
        self,
        model: Model,
        *,
        context: int = 0,
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        min_p: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        presence_penalty: Optional[float] = None,
        frequency_penalty: Optional[float] = None,
        seed: Optional[int] = None,
    ) -> None:
        if context < 0:
            raise ValueError(f"context is {context}, must not be negative")
        options = _lib.SessionOptions()
        given = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
        }
        out = c_void_p()
        with model._handle.use() as pointer:
            _lib.library().marlin_session_options_default(pointer, byref(options))
            for name, value in given.items():
                if value is not None:
                    setattr(options, name, value)
            options.context = context
            options.seed = secrets.randbits(64) if seed is None else seed
            _lib.call("marlin_session_open", pointer, byref(options), byref(out))
            self._handle = _lib.Handle(out.value, _lib.library().marlin_session_close, model._handle)
        self._busy = threading.Lock()
        self._cancelled = False

    def generate(
        self,
        prompt: Prompt = None,
        max_tokens: int = 128,
        *,
        stop: Union[str, Sequence[str]] = (),
        special: bool = False,
        ignore_eos: bool = False,
        on_text: Optional[Callable[[str], Optional[bool]]] = None,
    ) -> Answer:
        """Appends the prompt (text or ids; None goes on from the end of the timeline) and generates.

        on_text is called with each piece of text on this thread; what it raises ends the request and is raised
        here, and so does its returning False, without an error. Raises MarlinError; the timeline is then what it
        was before.
        """
        return _run(self, _Request(prompt, max_tokens, stop, special, ignore_eos), on_text)

    def stream(
        self,
        prompt: Prompt = None,
        max_tokens: int = 128,
        *,
        stop: Union[str, Sequence[str]] = (),
        special: bool = False,
        ignore_eos: bool = False,
    ) -> "Stream":
        """The same as an iterator over pieces of text, which a thread of its own generates ahead."""
        return Stream(self, _Request(prompt, max_tokens, stop, special, ignore_eos))

    def cancel(self, cancel: bool = True) -> None:
        """Any thread: the running request, and every later one until cancel(False), ends as soon as it can with
        what it has."""
        self._cancelled = cancel
        with self._handle.use() as pointer:
            _lib.library().marlin_cancel(pointer, cancel)

    def logits(self) -> npt.NDArray[np.float32]:
        """[vocabulary] of the token that would follow the timeline, before penalties and temperature."""
        values = POINTER(c_float)()
        n = c_size_t()
        with _only_request(self) as pointer:
            _lib.call("marlin_logits", pointer, byref(values), byref(n))
            return np.ctypeslib.as_array(values, shape=(n.value,)).copy()

    @property
    def length(self) -> int:
        """Tokens that the timeline has."""
        with _only_request(self) as pointer:
            return int(_lib.library().marlin_session_length(pointer))

    @property
    def context(self) -> int:
        """The most tokens that it can have."""
        with self._handle.use() as pointer:
            return int(_lib.library().marlin_session_context(pointer))

    def close(self) -> None:
        """Any thread; a request that runs is cancelled, and the memory goes when it has ended."""
        if not self._handle.closed:
            self.cancel()
        self._handle.release()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _only_request:
    """The session's pointer, for one who wants its timeline to stand still. Not waited for: whoever waits in
    on_text would wait for itself."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> int:
        if not self._session._busy.acquire(blocking=False):
            raise RuntimeError("a request runs on this session already")
        try:
            self._use = self._session._handle.use()
            return self._use.__enter__()
        except BaseException:
            self._session._busy.release()
            raise

    def __exit__(self, *exc: Any) -> None:
        try:
            self._use.__exit__(*exc)
        finally:
            self._session._busy.release()


class _Request:
    """A checked request, and what its pointers point to."""

    def __init__(
        self, prompt: Prompt, max_tokens: int, stop: Union[str, Sequence[str]], special: bool, ignore_eos: bool
    ) -> None:
        if max_tokens < 0:
            raise ValueError(f"max_tokens is {max_tokens}, must not be negative")
        stops = [_lib.encode_text(s, "a stop string") for s in ([stop] if isinstance(stop, str) else stop)]
        self.c = _lib.Request(max_tokens=max_tokens, special=special, ignore_eos=ignore_eos)
        if stops:
            self._stop = (c_char_p * len(stops))(*stops)
            self.c.stop, self.c.n_stop = self._stop, len(stops)
        if isinstance(prompt, str):
            self.c.prompt = _lib.encode_text(prompt, "prompt")
        elif prompt is not None:
            self._tokens = _ids(prompt)
            self.c.ids = self._tokens.ctypes.data_as(POINTER(c_int32))
            self.c.n_ids = len(self._tokens)


def _run(session: Session, request: _Request, on_text: Optional[Callable[[str], Optional[bool]]]) -> Answer:
    pieces: List[str] = []
    raised: List[BaseException] = []

    def take(_user: Any, data: int, n: int) -> bool:
        try:
            piece = ctypes.string_at(data, n).decode("utf-8", "replace")
            pieces.append(piece)
            return on_text is None or on_text(piece) is not False
        except BaseException as why:  # nothing may pass through C; an interrupt arrives here too
            raised.append(why)
            return False

    request.c.on_text = _lib.TextFn(take)
    usage = _lib.Usage()
    with _only_request(session) as pointer:
        _lib.call("marlin_run", pointer, byref(request.c), byref(usage))
        tokens = usage.tokens[: usage.completion_tokens] if usage.completion_tokens else []
    if raised:
        raise raised[0]
    return Answer(
        "".join(pieces),
        list(tokens),
        _FINISH[usage.finish],
        usage.prompt_tokens,
        usage.prompt_seconds,
        usage.completion_seconds,
    )


class Stream(Iterator[str]):
    """Pieces of text as they come. Ends with the answer, which `answer` has then; raises what went wrong where
    the text ends. close, or the end of a with block, cancels what is not generated yet."""

    def __init__(self, session: Session, request: _Request) -> None:
        self._session = session
        self._pieces: "queue.SimpleQueue[Union[str, Answer, BaseException]]" = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._ended = False
        self.answer: Optional[Answer] = None
        # The thread knows the queue and not this object, which can go away while it works.
        self._thread = threading.Thread(
            target=_feed, args=(session, request, self._pieces, self._stopped), name="marlin-stream", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        item = self._pieces.get()
        if isinstance(item, str):
            return item
        self._end(item)
        if isinstance(item, BaseException):
            raise item
        raise StopIteration

    def _end(self, item: Union[Answer, BaseException]) -> None:
        self._ended = True
        self._thread.join()
        if isinstance(item, Answer):
            self.answer = item

    def close(self) -> None:
        """Cancels, and waits until the session is free again."""
        if self._ended:
            return
        self._stopped.set()
        session = self._session
        if self._thread.is_alive() and not session._handle.closed:
            with session._handle.use() as pointer:
                _lib.library().marlin_cancel(pointer, True)
                self._thread.join()
                _lib.library().marlin_cancel(pointer, session._cancelled)
        while not self._ended:
            item = self._pieces.get()
            if not isinstance(item, str):
                self._end(item)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()


def _feed(
    session: Session,
    request: _Request,
    pieces: "queue.SimpleQueue[Union[str, Answer, BaseException]]",
    stopped: threading.Event,
) -> None:
    def take(text: str) -> bool:
        pieces.put(text)
        return not stopped.is_set()

    try:
        pieces.put(_run(session, request, take))
    except BaseException as why:  # raised again where the stream is read
        pieces.put(why)
