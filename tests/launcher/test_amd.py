"""An image for AMD's GPUs on a machine without one: 91 in the words of that maker, never NVIDIA's."""

from __future__ import annotations

from tests.launcher.launchers import ContainerLauncher, Launcher


def test_no_gpu_is_a_mismatch(launcher: Launcher) -> None:
    """Two lines: what is so, and what to add to docker run or to the pod."""
    launcher.spec |= {"id": "fa2-rocm", "device": "cuda", "vendor": "amd"}

    result = launcher.run("echo", "ran")

    what, advice = result.stderr.splitlines()
    assert (result.code, result.stdout) == (91, b"")
    assert "No AMD GPU is in reach, and fa2-rocm needs one" in what
    assert "--device /dev/kfd --device /dev/dri --group-add video" in advice
    assert "amd.com/gpu" in advice
    assert "NVIDIA" not in result.stderr


def test_nvidias_gpu_is_no_help(container: ContainerLauncher) -> None:
    """The device node of an NVIDIA GPU, which docker makes of /dev/null: the image is told apart from the machine."""
    container.spec |= {"device": "cuda", "vendor": "amd"}
    container.options = ["--device=/dev/null:/dev/nvidia0"]

    result = container.run("echo", "ran")

    assert result.code == 91
    assert "No AMD GPU is in reach, though another maker's is" in result.stderr.splitlines()[0]
