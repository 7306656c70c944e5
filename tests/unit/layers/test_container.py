"""The system layer over container images: what is added, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bouvet.errors import LayerError
from bouvet.formats.tree import FileTree, directory, regular_file, symlink
from bouvet.layers import container
from bouvet.layers.maker import Workshop
from bouvet.layers.merge import merge
from bouvet.layers.writer import LayerWriter
from bouvet.plan import Step, plan_layers
from bouvet.plan.oci_steps import ContainerBase, ContainerInputs, OciInputs, Service, with_environment
from bouvet.spec import Spec

CODE = dict.fromkeys(("oci", "container", "system", "agent", "run"), "code")
LAYERS = (
    OciInputs("sha256:one", "sha256:blob", "/somewhere/blob", 0, 10),
    OciInputs("sha256:two", None, "/somewhere/archive.tar", 512, 20),
)
SERVICE = Service(
    ("/bin/app",),
    ("-x",),
    (("PATH", "/app/bin:relative::/bin"), ("LINES", "a\nb"), ("A", "b"), ("C", "d")),
    "app",
    "/srv/app",
)


def planned(service: Service = SERVICE, **keys: Any) -> list[Step]:
    base = ContainerBase("sha256:image", LAYERS, service)
    spec = with_environment(Spec.model_validate({"from": "oci:layout", **keys}), base)
    return plan_layers(spec, "x86_64", code=CODE, agent="agent", container=base)


def made(layer: LayerWriter, tmp_path: Path, lower: FileTree, **keys: Any) -> FileTree:
    (inputs,) = [step.inputs for step in planned(**keys) if isinstance(step.inputs, ContainerInputs)]
    workshop = Workshop(tmp_path, tmp_path, lower, lambda message, fraction: None, print)
    container.make(inputs, workshop, layer)
    return merge([lower, layer.tree])


def service_of(tree: FileTree) -> Any:
    return json.loads(tree[container.SERVICE].content())


# --- The plan -----------------------------------------------------------------------------------------


def test_a_layer_is_over_those_below_it() -> None:
    steps = planned()
    assert [step.name for step in steps] == ["oci-1", "oci-2", "system", "agent"]
    assert [step.after for step in steps[:3]] == [(), ("oci-1",), ("oci-1", "oci-2")]


def test_where_a_blob_lies_is_no_part_of_its_layer() -> None:
    def digests(*layers: OciInputs) -> list[str]:
        base = ContainerBase("sha256:image", layers, Service())
        spec = Spec.model_validate({"from": "oci:layout"})
        return [step.digest for step in plan_layers(spec, "x86_64", code=CODE, agent="", container=base)]

    moved = OciInputs("sha256:one", None, "/elsewhere", 7, 8)
    assert digests(LAYERS[0]) == digests(moved)
    assert digests(LAYERS[0]) != digests(LAYERS[1])


def test_the_specs_variables_are_above_the_images() -> None:
    base = ContainerBase("sha256:image", (), SERVICE)
    plain = with_environment(Spec.model_validate({"from": "oci:layout"}), base)
    assert plain.system.path == ("/app/bin", "/bin")
    assert plain.system.environment == {"A": "b", "C": "d"}
    system = {"path": ["/own"], "environment": {"A": "mine"}}
    own = with_environment(Spec.model_validate({"from": "oci:layout", "system": system}), base)
    assert own.system.path == ("/own",)
    assert own.system.environment == {"A": "mine", "C": "d"}


# --- The layer ----------------------------------------------------------------------------------------


def test_an_empty_image_becomes_a_guest(layer: LayerWriter, tmp_path: Path) -> None:
    tree = made(layer, tmp_path, {})
    for path in (b"dev", b"proc", b"sys", b"run", b"tmp", b"root", b"lib/modules", b"srv/app"):
        assert tree[path].is_directory
    assert tree[b"tmp"].mode & 0o7777 == 0o1777
    assert tree[b"sbin/init"].target == b"/usr/local/bin/bouvet-agent"
    service = service_of(tree)
    assert service["arguments"] == ["/bin/app", "-x"]
    assert service["environment"] == ["PATH=/app/bin:/bin", "LINES=a\nb", "A=b", "C=d"]
    assert (service["user"], service["directory"], service["network"]) == ("app", "/srv/app", "dhcp")


def test_an_init_that_has_nothing_to_start_is_replaced(layer: LayerWriter, tmp_path: Path) -> None:
    lower = {
        b"usr/sbin": directory(),
        b"sbin": symlink(b"usr/sbin"),
        b"usr/sbin/init": symlink(b"/bin/busybox"),
        b"etc": directory(),
        b"etc/shadow": regular_file(b"root:*:1::::::\n"),
    }
    tree = made(layer, tmp_path, lower, system={"network": False, "root_password": "secret"})
    assert tree[b"usr/sbin/init"].target == b"/usr/local/bin/bouvet-agent"
    assert tree[b"sbin"].is_symlink
    assert service_of(tree)["network"] == ""
    assert tree[b"etc/shadow"].content().startswith(b"root:$6$")


@pytest.mark.parametrize("ifupdown", [True, False])
def test_systemd_is_left_to_start_everything(layer: LayerWriter, tmp_path: Path, ifupdown: bool) -> None:
    lower = {
        b"usr/sbin/init": symlink(b"/lib/systemd/systemd"),
        b"sbin": symlink(b"usr/sbin"),
        b"lib": symlink(b"usr/lib"),
        b"usr/lib/systemd/systemd-networkd": regular_file(b"x", 0o755),
        b"usr/lib/systemd/system/getty@.service": regular_file(b"[Unit]\n"),
        b"etc/shadow": regular_file(b"root:*:1::::::\n"),
    }
    if ifupdown:
        lower[b"usr/sbin/ifup"] = regular_file(b"x", 0o755)
    tree = made(layer, tmp_path, lower)
    assert tree[b"usr/sbin/init"].target == b"/lib/systemd/systemd"
    assert b"etc/systemd/system/multi-user.target.wants/bouvet-agent.service" in tree
    assert (b"etc/systemd/network/80-bouvet.network" in tree) is not ifupdown
    assert service_of(tree)["arguments"] == ["/bin/app", "-x"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"agent": False}, "no init"),
        ({"services": {"enable": ["app"]}}, "no systemd"),
        ({"system": {"root_password": "secret"}}, "no /etc/shadow"),
        ({"system": {"timezone": "Europe/Oslo"}}, "time zone"),
        ({"service": Service(directory="/srv/../../out")}, "no plain path"),
    ],
)
def test_what_cannot_be_had_is_refused(
    layer: LayerWriter, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(LayerError, match=message):
        made(layer, tmp_path, {}, **keys)
