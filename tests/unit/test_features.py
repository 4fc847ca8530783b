"""What a client and a ComfyUI tell each other first."""

from comfygate.gate.features import Features

FLAGS = b'{"type": "feature_flags", "data": {}}'


def test_only_the_first_message_can_be_about_features() -> None:
    for first, binary in ((FLAGS, True), (b'{"type": "other"}', False)):
        features = Features()
        assert not features.client_said(first, binary)
        assert not features.client_said(FLAGS, False)
        assert features.flags is None
    features = Features()
    assert features.client_said(FLAGS, False)
    assert not features.client_said(FLAGS, False)
    assert features.flags == FLAGS


def test_an_answer_is_new_once() -> None:
    features = Features()
    assert [features.is_new(answer) for answer in (b"1", b"1", b"2", b"1")] == [True, False, True, True]
