"""A judge model behind an OpenAI-compatible endpoint as a reward function.

A row that cannot be judged is None, with the reason through `log_error`; it is never a silent 0. What is hardened, and
what is not, is said at `Judge`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from openai import AsyncOpenAI
from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator

from grpo.config.file import explain
from grpo.config.section import Section, changed
from grpo.data.conversations import Part, response_text
from grpo.errors import UserError
from grpo.scoring.calls import REWARD_TIMEOUT
from grpo.system.http import RequestFailed
from rewards.judge.breaker import Breaker
from rewards.judge.cases import Case, NoReference, as_text, cut_middle, reference_answer, reference_completion
from rewards.judge.endpoint import Endpoint
from rewards.judge.master_keys import says_nothing
from rewards.judge.memory import Memory
from rewards.judge.prompts import pairwise_request, points_request, reference_request, rubric_request
from rewards.judge.verdicts import (
    LEAST,
    MOST,
    PairVerdict,
    PointsVerdict,
    ReferenceVerdict,
    Unreadable,
    Verdict,
    read_verdict,
    rubric_verdict,
    vote_value,
)
from rewards.rows import applying_rows, check_applies_to

ASKS = 3  # times that one vote is asked for while the replies hold no readable verdict
BESIDE = ("pairwise", "points")  # modes that compare with another completion, in both orders
OWN = {"criteria": ("rubric",), "seed": BESIDE, "reference": ("reference", *BESIDE)}  # options of some modes


class Judge(Section):
    """`{fn: judge, kwargs: {base_url: http://localhost:8000/v1, model: my-judge, mode: reference}}`

    Modes: `reference` is 1.0 when more than half of the votes find the answer right against the reference, else 0.0
    (also on a tie), as in DeepSeek-R1's stage 3; `rubric` is the mean of scores from 1 to 7 over criteria and votes,
    mapped to 0..1; `pairwise` is the mean of 1.0 for a win, 0.5 for a tie and 0.0 for a loss against the completion in
    a column, asked equally often in both orders, so that a judge's liking for a position cancels; `points` likewise,
    with points from 1 to 10 for both: how many more the completion has, on average, from -9 to 9. All votes of a row
    have to come, or it is None.

    Hardened: answers that say nothing (`rewards.judge.master_keys`) are 0.0 by rule, in every mode and without a
    request, unless they equal the reference; texts cannot forge their fence or the judge's verdict
    (`rewards.judge.prompts`). Not hardened: a judge that believes what an answer claims; only another judge helps, or
    rules beside it.

    Raises:
        UserError: wrong options, or rows without the needed column.
    """

    base_url: str | None = None  # up to and including the version; None: OPENAI_BASE_URL, else OpenAI's own
    model: str = Field(min_length=1)
    # Name of the environment variable with the key; None: OPENAI_API_KEY at the address above, else no key.
    key_env: str | None = None
    mode: Literal["reference", "rubric", "pairwise", "points"] = "reference"
    criteria: dict[str, str] = {}  # {name: what it asks for}
    reference: str | None = None  # column: right answers (None: `answer`), or the other completion (pairwise, points)
    votes: int | None = Field(None, ge=1)  # requests per row; None: 1, of two completions 2 (even: half in each order)
    seed: int = 0  # decides, with the row's texts, which order is asked first
    part: Part = "answer"  # what follows </think>, or the whole response
    remember: str | None = None  # a file that keeps each vote as it comes: what is in it is not asked for again
    applies_to: dict[str, Any] | None = None  # {column: kind, values: [...]}: None for rows with other values
    max_chars: int = Field(20_000, ge=100)  # longer answers are cut in the middle
    temperature: float | None = Field(0.0, ge=0)  # None: the endpoint's. Votes in the same order want one above 0
    max_tokens: int = Field(2048, ge=1)  # of a reply, reasoning included
    # What the endpoint is asked to enforce; validated here in any case.
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    extra_body: dict[str, Any] = {}  # further fields, e.g. {chat_template_kwargs: {enable_thinking: false}}
    concurrency: int = Field(16, ge=1)  # requests in flight at a time, in this process
    timeout: float = Field(60.0, gt=0)  # seconds for one request
    retries: int = Field(5, ge=0)  # further attempts on 408, 409, 429, 5xx, timeouts, connection errors and garbage
    backoff: float = Field(1.0, ge=0)  # seconds before the first of them, doubled each time; see `grpo.system.http`
    breaker_failures: int = Field(100, ge=1)  # in a row (no 429), after which requests fail at once ...
    cooldown: float = Field(30.0, ge=0)  # ... for so many seconds; then one probes
    max_seconds: float = Field(500.0, gt=0, lt=REWARD_TIMEOUT)  # for all rows of a call; what is open then is None

    _endpoint: Endpoint = PrivateAttr()
    _verdict: type[Verdict] = PrivateAttr()
    _memory: Memory | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, options: Any, handler: ModelWrapValidatorHandler[Judge]) -> Judge:
        try:
            return handler(options)
        except (ValidationError, UserError) as error:  # the text of the former would repeat values
            text = error if isinstance(error, UserError) else explain(cls, error)
            raise UserError(f"reward 'judge': {text}") from None

    def model_post_init(self, context: Any) -> None:
        self._check()
        kinds: dict[str, type[Verdict]] = {
            "reference": ReferenceVerdict, "pairwise": PairVerdict, "points": PointsVerdict
        }  # fmt: skip
        self._verdict = kinds.get(self.mode) or rubric_verdict(self.criteria)
        self._endpoint = Endpoint(
            self.base_url,
            self.key_env,
            self._fields(),
            concurrency=self.concurrency,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            breaker=Breaker(self.breaker_failures, self.cooldown),
        )
        if self.remember is not None:
            self._memory = Memory(Path(self.remember), [self.mode, self.criteria, self._fields()])

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_error: Callable[[int, str], None] | None = None,
        **columns: Sequence[Any],
    ) -> list[float | None]:
        """Values in [0, 1], or None."""
        rows = applying_rows("reward 'judge'", self.applies_to, len(completions), columns)
        values: list[float | None] = [None] * len(completions)
        if not rows:
            return values
        references = self._references(columns)
        prefill = columns.get("prefill") or [""] * len(completions)
        reasons: dict[int, str] = {}

        async def judge(row: int) -> None:
            try:
                reference = None if references is None else references[row]
                case = self._case(prompts[row], completions[row], reference, prefill[row] or "")
                values[row] = await self._value(client, case)
            except (RequestFailed, Unreadable, NoReference) as failure:
                reasons[row] = f"judge: {failure}"

        async with self._endpoint.client() as client:
            try:
                async with asyncio.timeout(self.max_seconds), asyncio.TaskGroup() as group:
                    for row in rows:
                        group.create_task(judge(row))
            except ExceptionGroup as group_error:  # nothing that a row should do: say which, not that there was one
                raise group_error.exceptions[0] from None
            except TimeoutError:
                last_error = self._endpoint.breaker.last_error
                trouble = f"; the endpoint's last error: {last_error}" if last_error else ""
                late = [row for row in rows if values[row] is None and row not in reasons]
                reasons |= dict.fromkeys(late, f"judge: no verdict within {self.max_seconds:g} s{trouble}")
        for row, reason in sorted(reasons.items()):
            if log_error is not None:
                log_error(row, reason)
        return values

    def _case(self, prompt: Any, completion: Any, reference: Any, prefill: str) -> Case:
        if self.mode == "reference":
            reference = reference_answer(reference)
        elif self.mode in BESIDE:
            reference = reference_completion(reference, self.part)
        answer = response_text(completion, self.part, prefill)
        texts = (cut_middle(text, self.max_chars) for text in (answer, reference or ""))
        return Case(as_text(prompt), *texts)

    async def _value(self, client: AsyncOpenAI, case: Case) -> float:
        if self.mode in BESIDE and case.answer == case.reference:
            return 0.0 if self.mode == "points" else 0.5
        if self.mode == "points" and (empty := says_nothing(case.answer)) | says_nothing(case.reference):
            both = empty and says_nothing(case.reference)
            return 0.0 if both else float(LEAST - MOST if empty else MOST - LEAST)
        if says_nothing(case.answer) and case.answer.strip() != (case.reference.strip() or None):
            return 0.0
        values = [await self._known(client, case, first, vote) for vote, first in enumerate(self._orders(case))]
        share = sum(values) / len(values)
        return float(share > 0.5) if self.mode == "reference" else share

    async def _known(self, client: AsyncOpenAI, case: Case, first: bool, vote: int) -> float:
        """What a vote says, from memory if it is there."""
        known = self._memory.recall(case, first, vote) if self._memory is not None else None
        if known is None:
            known = vote_value(await self._vote(client, case, first), first)
            if self._memory is not None:
                self._memory.keep(case, first, vote, known)
        return known

    async def _vote(self, client: AsyncOpenAI, case: Case, first: bool) -> Any:
        """One verdict; asked again, with a new id, while the reply holds none."""
        problem = Unreadable()
        for _ in range(ASKS):
            expected, messages = self._request(case, first)
            reply = await self._endpoint.ask(client, messages)
            cut = reply.finish_reason == "length"
            try:
                return read_verdict(reply.content or "", self._verdict, expected, cut)
            except Unreadable as unreadable:
                why = f" (the reply was cut at max_tokens={self.max_tokens})" if cut else ""
                problem = Unreadable(f"{unreadable}{why}, asked {ASKS} times")
        raise problem

    def _request(self, case: Case, first: bool) -> tuple[str, list[dict[str, str]]]:
        if self.mode == "rubric":
            return rubric_request(case.question, case.answer, self.criteria)
        if self.mode in BESIDE:
            pair = (case.answer, case.reference) if first else (case.reference, case.answer)
            return (pairwise_request if self.mode == "pairwise" else points_request)(case.question, *pair)
        return reference_request(case.question, case.answer, case.reference)

    def _orders(self, case: Case) -> Iterator[bool]:
        """Whether the answer comes first, vote by vote; by the row's own texts, not by its place among others."""
        if self.mode not in BESIDE:
            return itertools.repeat(True, self.votes or 1)
        first = random.Random(f"{self.seed}\0{case.question}\0{case.answer}").random() < 0.5
        return (first == (vote % 2 == 0) for vote in range(self.votes or 2))

    def _references(self, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any] | None:
        if self.mode == "rubric":
            return None
        name = self.reference or "answer"
        if name not in columns:
            raise UserError(
                f"reward 'judge': the data has no column '{name}' to judge against; name one in 'reference'"
            )
        return columns[name]

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens}
        if self.temperature is not None:
            fields["temperature"] = self.temperature
        if self.response_format == "json_schema":
            schema = {"name": "verdict", "schema": self._verdict.model_json_schema(), "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.response_format == "json_object":
            fields["response_format"] = {"type": "json_object"}
        return {**fields, "extra_body": self.extra_body}

    def _check(self) -> None:
        check_applies_to(self.applies_to)
        for name, modes in OWN.items():
            if self.mode not in modes and changed(self, [name]):
                raise UserError(f"'{name}' does nothing in mode {self.mode}: remove it")
        if self.mode == "rubric" and not self.criteria:
            raise UserError("mode rubric needs 'criteria': {name: what it asks for}")
        if self.mode in BESIDE and self.reference is None:
            raise UserError(f"mode {self.mode} needs 'reference': the column with the completion to compare with")
        if self.mode in BESIDE and (self.votes or 2) % 2:
            text = f"mode {self.mode} asks in both orders equally often: 'votes' must be even, not {self.votes}"
            raise UserError(text)
        same = (self.votes or 1) > (2 if self.mode in BESIDE else 1)
        if same and self.temperature == 0:
            raise UserError(f"{self.votes} votes at temperature 0 are the same vote: set 'temperature' above 0")
