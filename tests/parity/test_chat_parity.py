"""Our templates against the Jinja templates of the releases, run by transformers.

The Jinja texts are those of the releases' tokenizer_config.json without the branches for tools,
which no conversation here takes.
"""

import itertools

import pytest
import tokenizer_cases

from reasonjax.data import chat
from reasonjax.data import tokenizer as tokenizer_lib

transformers = pytest.importorskip("transformers")
pytest.importorskip("jinja2")
pytestmark = pytest.mark.parity

R1_UNFORCED = (
  "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
  "{% set ns = namespace(system_prompt='') %}"
  "{%- for message in messages %}{%- if message['role'] == 'system' %}"
  "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
  "{{bos_token}}{{ns.system_prompt}}"
  "{%- for message in messages %}"
  "{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
  "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
  "{% set content = message['content'] %}"
  "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
  "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}"
  "{%- endfor -%}"
  "{% if add_generation_prompt %}{{'<｜Assistant｜>'}}{% endif %}"
)

QWEN2_5 = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nDEFAULT<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""  # noqa: E501

LLAMA_3 = (
  "{% set loop_messages = messages %}{% for message in loop_messages %}"
  "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
  "+ message['content'] | trim + '<|eot_id|>' %}"
  "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
  "{{ content }}{% endfor %}"
  "{% if add_generation_prompt %}"
  "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

LLAMA_3_1 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""  # noqa: E501

QWEN_PROMPT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
MATH_PROMPT = "Please reason step by step, and put your final answer within \\\\boxed{}."

R1_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
R1_ORDINARY = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
QWEN_TOKENS = (None, "<|im_end|>", "<|endoftext|>", "<|im_start|>")
LLAMA_TOKENS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")

# Name -> Jinja text, special tokens (BOS and EOS first), ordinary added tokens.
FAMILIES = {
  "deepseek_r1_unforced": (R1_UNFORCED, R1_TOKENS, R1_ORDINARY),
  "deepseek_r1": (
    R1_UNFORCED.replace("{{'<｜Assistant｜>'}}", r"{{'<｜Assistant｜><think>\n'}}"),
    R1_TOKENS,
    R1_ORDINARY,
  ),
  "qwen2_5": (QWEN2_5.replace("DEFAULT", QWEN_PROMPT), QWEN_TOKENS, ()),
  "qwen2_5_math": (QWEN2_5.replace("DEFAULT", MATH_PROMPT), QWEN_TOKENS, ()),
  "llama_3": (LLAMA_3, LLAMA_TOKENS, ()),
  "llama_3_1": (LLAMA_3_1, LLAMA_TOKENS, ()),
}

USER = (
  "What is 1+1?",
  "  leading\n\nand trailing \n",
  "\n\nthe user\u3000",
  "",
  "日本語 é 🙂 {{x}}",
)
ASSISTANT = ("2", "<think>\n1 and 1\n</think>\n\nIt is 2.\n", "a</think>b</think> c", " ")
SYSTEMS = (None, "", " Be brief.\n", "You are {{bos_token}}")


def conversations():
  """Up to five turns of every mixture of awkward contents, with and without a system prompt."""
  for number, (user, assistant, system) in enumerate(itertools.product(USER, ASSISTANT, SYSTEMS)):
    start = [] if system is None else [{"role": "system", "content": system}]
    contents = (user, assistant, USER[number % 5], ASSISTANT[number % 4], USER[(number + 2) % 5])
    turns = [
      {"role": ("user", "assistant")[i % 2], "content": content}
      for i, content in enumerate(contents)
    ]
    for length in range(1, 6):
      yield start + turns[:length]
  yield [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
  """Our template, their tokenizer with its Jinja template, and ours read from what theirs saved."""
  jinja, special, ordinary = FAMILIES[request.param]
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer_cases.byte_level(filter(None, special), ordinary),
    bos_token=special[0],
    eos_token=special[1],
    chat_template=jinja,
  )
  folder = tmp_path_factory.mktemp(request.param)
  theirs.save_pretrained(folder)
  return chat.get(request.param), theirs, tokenizer_lib.load(folder)


def test_every_published_template_is_compared():
  assert set(FAMILIES) == set(chat.TEMPLATES) - {"r1_zero"}


def test_text_and_ids(family):
  template, theirs, ours = family
  for messages in conversations():
    # Asking for a turn after an assistant's is an error here, a second opening there.
    for prompt in {False, messages[-1]["role"] != "assistant"}:
      options = {"add_generation_prompt": prompt}
      text = theirs.apply_chat_template(messages, tokenize=False, **options)
      assert chat.render(template, messages, **options) == text
      ids = theirs(text, add_special_tokens=False)["input_ids"]
      assert chat.encode(template, messages, ours, **options) == ids


def test_tokenizer(family):
  _, theirs, ours = family
  assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
  assert ours.vocab_size == len(theirs)
  written = "the user said <think>1+1</think>\n\n日本語 🙂"
  ids = theirs(written, add_special_tokens=False)["input_ids"]
  assert ours.encode(written) == ids
  assert ours.decode([ours.eos_id, *ids]) == theirs.decode(ids, skip_special_tokens=True) == written
