"""Language consistency: how much of the reasoning is in the language asked for."""

from __future__ import annotations

import re

LANGUAGES = ("en", "zh")
# One Chinese character is one word; a run of Latin letters (with inner apostrophes and hyphens) is
# one. Numbers, formulas and punctuation belong to no language.
_CHINESE = r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_LATIN = r"[A-Za-zÀ-ÖØ-öø-ÿ]"
_WORD = re.compile(rf"{_CHINESE}|{_LATIN}+(?:['’-]{_LATIN}+)*")
_FORMULA = re.compile(r"\$\$.*?\$\$|\$.*?\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[A-Za-z]+", re.DOTALL)


def consistency(reasoning: str, language: str) -> float:
  """Share of the words of a chain of thought that are in the target language, 0 to 1.

  Added to the other rewards; R1 saw it cost a little accuracy and read better.

  Args:
    reasoning: text of the think block. Formulas, numbers and punctuation do not count; text
      without any word gives 0.
    language: one of LANGUAGES.

  Raises:
    ValueError: for an unknown language.

  Source: R1 section 2.3.2.

  >>> consistency("we add 三 apples: $x+1$", "en")
  0.75
  """
  if language not in LANGUAGES:
    raise ValueError(f"language={language!r}: choose from {LANGUAGES}.")
  words = _WORD.findall(_FORMULA.sub(" ", reasoning))
  if not words:
    return 0.0
  chinese = sum(1 for word in words if re.fullmatch(_CHINESE, word))
  return (chinese if language == "zh" else len(words) - chinese) / len(words)
