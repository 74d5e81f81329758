"""What load_model says of a name that is no model of ours."""

import pytest
from transformers import BertConfig, BlipConfig

from notice_lib import NoticeError, load_model


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(NoticeError, match=f"'{tmp_path}' is no checkpoint: give blip-mini or"):
        load_model(str(tmp_path))
    with pytest.raises(NoticeError, match="is no checkpoint"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (BertConfig(architectures=["BertModel"]), "is a BertModel; supported are BlipForQuestion"),
        (
            BlipConfig(architectures=["BlipForConditionalGeneration"]),
            "is a BlipForConditionalGeneration; supported are BlipForQuestionAnswering",
        ),
        (BertConfig(), "is a bert; supported are"),
    ],
)
def test_an_unsupported_family_is_named(tmp_path, config, named):
    config.save_pretrained(tmp_path)
    with pytest.raises(NoticeError, match=named):
        load_model(tmp_path)


def test_a_checkpoint_without_weights_is_named(tmp_path):
    BlipConfig(architectures=["BlipForQuestionAnswering"]).save_pretrained(tmp_path)
    with pytest.raises(NoticeError, match="no checkpoint"):
        load_model(tmp_path)
