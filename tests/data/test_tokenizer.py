"""Three tokenizers behind one protocol."""

import hypothesis
import numpy as np
import pytest
import sentencepiece
from hypothesis import strategies as st

from reasonjax.core import text
from reasonjax.data import tokenizer

SYMBOLS = ("a", "ab", "abc", "12", "1", "2", "+")


def test_ids_follow_the_specials_in_order():
  symbols = tokenizer.SymbolTokenizer(SYMBOLS)
  assert (symbols.pad_id, symbols.bos_id, symbols.eos_id) == (0, 1, 2)
  assert symbols.vocab_size == 10
  assert [symbols.encode(symbol) for symbol in SYMBOLS] == [[i] for i in range(3, 10)]


@pytest.mark.parametrize(
  ("written", "ids"),
  [("abcab", [5, 4]), ("aabc", [3, 5]), ("121", [6, 7]), ("112", [7, 6]), ("", [])],
)
def test_the_longest_symbol_wins_from_the_left(written, ids):
  assert tokenizer.SymbolTokenizer(SYMBOLS).encode(written) == ids


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.lists(st.sampled_from((*SYMBOLS, *text.TAGS)), max_size=12).map("".join))
def test_symbols_round_trip(written):
  symbols = tokenizer.of_symbols(SYMBOLS)
  assert symbols.decode(symbols.encode(written)) == written


def test_unknown_text_is_named():
  with pytest.raises(ValueError, match=r"^no symbol for 'x' in '1\+x'; known: .*'\+'"):
    tokenizer.SymbolTokenizer(SYMBOLS).encode("1+x")


def test_symbols_with_special_characters_are_taken_literally():
  symbols = tokenizer.SymbolTokenizer((".", "*", "("))
  assert symbols.encode("(.*") == [5, 3, 4]
  with pytest.raises(ValueError, match="no symbol for 'x'"):
    symbols.encode("x")


def test_specials_decode_to_nothing_and_foreign_ids_show():
  symbols = tokenizer.SymbolTokenizer(SYMBOLS)
  assert symbols.decode([1, 3, 9, 2, 0, 0]) == "a+"
  assert symbols.decode(np.array([3, 10, 9], np.int32)) == "a<10>+"


@pytest.mark.parametrize("symbols", [("a", "a"), ("a", ""), ("a", "<pad>"), ("<eos>",)])
def test_bad_symbols_are_refused(symbols):
  with pytest.raises(ValueError, match=r"^symbols must be distinct, non-empty and not among"):
    tokenizer.SymbolTokenizer(symbols)


def test_tags_come_first_in_a_task_vocabulary():
  symbols = tokenizer.of_symbols(("7",))
  assert symbols.encode(text.render("7", "7")) == [3, 7, 4, 5, 7, 6]
  assert symbols.vocab_size == 8


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.text(max_size=20))
def test_bytes_round_trip(written):
  tokens = tokenizer.ByteTokenizer()
  ids = tokens.encode(written)
  assert ids == [byte + 3 for byte in written.encode("utf-8")]
  assert tokens.decode([tokens.bos_id, *ids, tokens.eos_id, tokens.pad_id]) == written


def test_bytes_survive_what_a_model_may_sample():
  tokens = tokenizer.ByteTokenizer()
  assert tokens.vocab_size == 259
  assert tokens.decode([0x41 + 3, 0xFF + 3, 0x42 + 3]) == "A\N{REPLACEMENT CHARACTER}B"
  assert tokens.decode([0x41 + 3, 259, 4000]) == "A"
  assert tokens.decode(np.array([0x41 + 3], np.int32)) == "A"


CORPUS = [f"{a}+{b}={a + b} is the sum of {a} and {b}" for a in range(20) for b in range(10)]


def train(folder, name: str, **options) -> str:
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS),
    model_prefix=str(folder / name),
    vocab_size=40,
    model_type="bpe",
    minloglevel=2,
    **options,
  )
  return str(folder / f"{name}.model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  return tokenizer.SentencePieceTokenizer(
    train(tmp_path_factory.mktemp("sentencepiece"), "padded", pad_id=3)
  )


def test_sentencepiece_reads_its_specials(trained):
  assert (trained.vocab_size, trained.bos_id, trained.eos_id, trained.pad_id) == (40, 1, 2, 3)


@pytest.mark.parametrize("written", [CORPUS[0], CORPUS[57], "7 is 7", ""])
def test_sentencepiece_round_trips(trained, written):
  ids = trained.encode(written)
  assert not {trained.bos_id, trained.eos_id, trained.pad_id} & set(ids)
  assert all(0 <= token < 40 for token in ids)
  assert trained.decode([trained.bos_id, *ids, trained.eos_id, trained.pad_id]) == written
  assert trained.decode(np.array(ids, np.int32)) == written


def test_sentencepiece_merges_characters(trained):
  assert len(trained.encode(CORPUS[0])) < len(CORPUS[0])


def test_sentencepiece_without_padding_pads_with_eos(tmp_path):
  tokens = tokenizer.SentencePieceTokenizer(train(tmp_path, "unpadded"))
  assert tokens.pad_id == tokens.eos_id == 2


def test_sentencepiece_decodes_ids_of_a_larger_model_vocabulary(trained):
  ids = trained.encode("7 is 7")
  assert "7 is 7" in trained.decode([*ids, trained.vocab_size])


@pytest.mark.parametrize("missing", ["bos_id", "eos_id"])
def test_sentencepiece_needs_bos_and_eos(tmp_path, missing):
  model_file = train(tmp_path, "short", **{missing: -1})
  with pytest.raises(ValueError, match=r"^model_file='.*short.model' defines no BOS or no EOS"):
    tokenizer.SentencePieceTokenizer(model_file)


def test_other_files_are_refused(tmp_path):
  (tmp_path / "words.model").write_text("not a model")
  with pytest.raises(ValueError, match=r"^model_file='.*words.model' is no SentencePiece model"):
    tokenizer.SentencePieceTokenizer(str(tmp_path / "words.model"))
  with pytest.raises(FileNotFoundError):
    tokenizer.SentencePieceTokenizer(str(tmp_path / "absent.model"))
