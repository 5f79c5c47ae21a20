"""Chinese words by jieba, where it is installed."""

import pytest

from prealign.text.segmentation import count_segmented, segmenter_version


def test_words_of_chinese_text() -> None:
    pytest.importorskip("jieba")
    counts = count_segmented(["我喜欢音乐，钢琴很好。", "钢琴 2024!"])
    assert counts["喜欢"] == 1
    assert counts["钢琴"] == 2
    assert not {"，", "2024", " "} & counts.keys()


def test_a_segmenter_that_is_not_installed() -> None:
    assert segmenter_version("no-such-segmenter") is None
