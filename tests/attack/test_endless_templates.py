"""Chat templates that compute for ever, or write without end: one line, soon, and the memory stays ours."""

import gc
import resource
import signal
import threading
import time

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from grpo.data import rendering
from grpo.errors import UserError
from grpo.system.limits import limited

SLOW = {  # before: hours
    "text": "{% for a in 'a' * 10**5 %}{% for b in 'a' * 10**5 %}{% endfor %}{% endfor %}",
    "a macro twice in itself": "{% macro f(n) %}{% if n %}{{ f(n-1) ~ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "constants, while it is compiled": "{{ ('ab' * 10**6)|list|sort|length }}" * 9,
    "words": "{{ lipsum(n=10**7) }}",
}  # fmt: skip
LARGE = {  # before: the memory of the machine
    "repeated": "{{ 'a' * 10**10 }}", "less": "{{ 'a' * 10**9 }}",
    "of a variable": "{{ 'a' * (messages|length * 10**10) }}",
    "centred": "{{ 'a'|center(10**9) }}", "formatted": "{{ '%1000000000d'|format(1) }}", "list": "{{ [0] * 10**10 }}",
    "loop": "{% for c in 'a' * 10**9 %}{% endfor %}", "replaced": "{{ ('a' * 10**7)|replace('a', 'a' * 10**5) }}",
    "doubled": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
}  # fmt: skip
OTHER = {
    "ranges": ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "than 1000000 turns"),
    "search": ("{{ 'x' in range(10**9) }}", "than 1000000 turns"),
    "recursion": ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
    "written": ("{{ 'a' * 10**7 }}", "it writes 10,000,000 characters"),
    "nothing": ("{{ 1 / 0 }}", "division by zero"),
}  # fmt: skip


def rendered(template, content="a"):
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template)
    return rendering.render(tokenizer, [{"role": "user", "content": content}], open_answer=False, where="row 3")


def refusal(template):
    start, limits = time.thread_time(), resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(UserError, match="row 3: the model's chat template refuses this conversation: ") as caught:
        rendered(template)
    assert time.thread_time() - start < 5  # of this thread: those of others may spin
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert gc.isenabled()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SLOW)
def test_a_template_that_computes_for_ever(name, monkeypatch):
    monkeypatch.setattr(rendering, "MOST_SECONDS", 0.05)
    for _ in range(2):
        assert "it computes for more than 0.05 seconds" in refusal(SLOW[name])
        monkeypatch.setattr(rendering, "MOST_SECONDS", 100.0)  # it is not waited for again


@pytest.mark.parametrize("name", LARGE)
def test_a_template_that_takes_all_memory(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "it takes more than 256 MiB" in refusal(LARGE[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


@pytest.mark.parametrize("name", OTHER)
def test_other_templates_without_end(name):
    template, words = OTHER[name]
    assert words in refusal(template)


def test_a_long_conversation_is_no_text_without_end():
    assert len(rendered("{{ messages[0].content * 9 }}", "a" * 10**6)) == 9 * 10**6


def test_in_another_thread_the_memory_is_bounded():
    """Signals come to the main one alone."""
    said = []
    thread = threading.Thread(target=lambda: said.append(refusal("{{ 'b' * 10**10 }}")))
    thread.start()
    thread.join()
    assert "it takes more than 256 MiB" in said[0]


def test_the_memory_of_the_process_is_as_before_when_two_threads_render():
    """Before: the second put back the limit of the first, and all that came after had 256 MiB."""
    before, inside, leave = resource.getrlimit(resource.RLIMIT_AS), threading.Event(), threading.Event()
    works = (lambda: inside.set() or leave.wait(5)), (lambda: time.sleep(0.1))
    threads = [threading.Thread(target=limited, args=(work, 1, 2**28)) for work in works]
    threads[0].start()
    inside.wait(5)
    threads[1].start()
    time.sleep(0.05)
    leave.set()
    for thread in threads:
        thread.join()
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_the_process_has_by_now_is_no_template_s(monkeypatch):
    """It is read anew only now and then: what was taken meanwhile costs no conversation its rendering."""
    monkeypatch.setattr("grpo.system.limits._FRESH", 100.0)
    limited(int, 1, 2**24)
    taken = bytearray(2**26)
    assert limited(lambda: bytearray(2**22), 1, 2**24)
    with pytest.raises(MemoryError, match="it takes more than 16 MiB"):
        limited(lambda: bytearray(2**27), 1, 2**24)
    assert rendered("{% for i in range(900000) %}{% endfor %}b") == "b"
    del taken


def test_a_profiler_gets_its_signals_between_renderings(monkeypatch):
    """The handler stays ours: to set it with each rendering took as long as one."""
    seen = []
    monkeypatch.setattr("grpo.system.limits._before", None)
    first = signal.signal(signal.SIGPROF, lambda *_: seen.append(1))
    try:
        rendered("b")
        signal.raise_signal(signal.SIGPROF)
        assert seen == [1]
        with pytest.raises(TimeoutError, match="it computes for more than"):
            limited(lambda: [None for _ in iter(int, 1)], 0.05, 2**28)
    finally:
        signal.signal(signal.SIGPROF, first)
