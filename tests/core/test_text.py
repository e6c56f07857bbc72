"""R1's response format, taken apart and put together."""

import hypothesis
import pytest
from hypothesis import strategies as st

from reasonjax.core import text

# Pieces that come close to tags without being any.
PIECES = st.sampled_from(["<", ">", "</", "think", "answer", "<think", "</answer ", " ", "\n", "7"])
FREE = st.one_of(st.text(max_size=20), st.lists(PIECES, max_size=8).map("".join)).filter(
  lambda written: not any(tag in written for tag in text.TAGS)
)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(FREE, FREE)
def test_parse_inverts_render(thinking, answer):
  response = text.parse(text.render(thinking, answer))
  assert (response.thinking, response.answer) == (thinking, answer)
  assert response.well_formed


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(FREE, FREE, st.sampled_from(text.TAGS), st.booleans())
def test_a_tag_inside_a_block_breaks_the_format(thinking, answer, tag, in_thinking):
  inside = (thinking + tag, answer) if in_thinking else (thinking, answer + tag)
  assert text.parse(text.render(*inside)) == text.Response(None, None)


@pytest.mark.parametrize(
  "response",
  [
    "<think>a</think><answer>b</answer>",
    " \n<think>a</think>\n\t <answer>b</answer>\n",
  ],
)
def test_white_space_around_blocks_is_allowed(response):
  assert text.parse(response) == text.Response("a", "b")


@pytest.mark.parametrize(
  "response",
  [
    "",
    "b",
    "<answer>b</answer>",
    "<think>a</think>",
    "<think>a<answer>b</answer>",
    "a</think><answer>b</answer>",
    "<think>a</think><answer>b",
    "<answer>b</answer><think>a</think>",
    "<think>a</think>so<answer>b</answer>",
    "so<think>a</think><answer>b</answer>",
    "<think>a</think><answer>b</answer>.",
    "<think>a</think><answer>b</answer><answer>c</answer>",
    "<think>a</think><think>a</think><answer>b</answer>",
    "<think><think>a</think></think><answer>b</answer>",
    "<think>a</think><answer><answer>b</answer></answer>",
    "<THINK>a</THINK><ANSWER>b</ANSWER>",
    "<think>a</think ><answer>b</answer>",
  ],
)
def test_everything_else_is_broken(response):
  assert text.parse(response) == text.Response(None, None)
  assert not text.parse(response).well_formed


@pytest.mark.parametrize(
  ("response", "thought"),
  [
    ("<think>1+1</think><answer>2</answer>", True),
    ("<think></think><answer>2</answer>", False),
    ("<think> \n</think><answer>2</answer>", False),
    ("<think>1+1</think>2", False),
  ],
)
def test_thought_needs_a_nonempty_think_block(response, thought):
  assert text.parse(response).thought is thought


def test_blocks_may_span_lines():
  assert text.parse("<think>a\nb\n</think><answer>\nc\n</answer>") == text.Response(
    "a\nb\n", "\nc\n"
  )
