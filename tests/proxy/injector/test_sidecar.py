"""The sidecar file: what is read from it, and where each mistake of it stands."""

import json
from pathlib import Path

import pytest

from proxy.injector.asked import Asked
from proxy.injector.sidecar import read_sidecar
from proxy.policy.document import PolicyFileError
from tests.proxy.injector.pods import PLAIN, SIDECAR

LEAST = 'native: true\nversion: "1"\ncontainer:\n  name: tollhouse\n  image: x\n'


def mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyFileError) as error:
        read_sidecar(text.encode(), file="f")
    return [str(mistake) for mistake in error.value.mistakes]


def test_a_whole_file() -> None:
    sidecar = read_sidecar(SIDECAR.encode(), file="f")
    assert (sidecar.name, sidecar.native, sidecar.grace_s, sidecar.version) == ("tollhouse", True, 45, "0.1.0")
    assert sidecar.ports == {8080, 9090}
    assert [volume["name"] for volume in sidecar.volumes] == ["tollhouse-policy", "tollhouse-secrets", "tollhouse-state"]
    assert sidecar.container["startupProbe"] == {
        "httpGet": {"path": "/readyz", "port": "admin"},
        "periodSeconds": 1,
        "failureThreshold": 60,
    }
    assert sidecar.container["securityContext"]["runAsNonRoot"] is True
    assert sidecar.container["restartPolicy"] == "Always"
    assert "restartPolicy" not in read_sidecar(PLAIN.encode(), file="f").container


def test_the_one_that_the_readme_shows() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text("utf-8").partition("The sidecar file is YAML")[2]
    sidecar = read_sidecar(text.partition("```yaml\n")[2].partition("```")[0].encode(), file="README.md")
    assert (sidecar.name, sidecar.ports, sidecar.grace_s) == ("tollhouse", {8080}, 45)


def test_json_is_read_as_well() -> None:
    sidecar = read_sidecar(SIDECAR.encode(), file="f")
    text = json.dumps(
        {
            "native": True,
            "container": dict(sidecar.container),
            "volumes": sidecar.volumes,
            "env": sidecar.env,
            "grace_s": 45,
            "version": "0.1.0",
        },
        indent=1,
    )
    assert read_sidecar(text.encode(), file="f") == sidecar


def test_the_least_there_is() -> None:
    sidecar = read_sidecar(LEAST.encode(), file="f")
    assert (sidecar.volumes, sidecar.env, sidecar.ports, sidecar.grace_s) == ((), (), frozenset(), None)
    assert sidecar.volumes_for(Asked()) == []


def test_what_is_null_is_absent() -> None:
    sidecar = read_sidecar(
        (LEAST + "  resources:\n  securityContext: {runAsUser: null, runAsNonRoot: true}\nvolumes: null\n").encode(), file="f"
    )
    assert "resources" not in sidecar.container
    assert sidecar.container["securityContext"] == {"runAsNonRoot": True}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0.5", 0.5),
        ('"5"', "5"),
        ("5m", "5m"),
        ("128Mi", "128Mi"),
        ("true", True),
        ("'true'", "true"),
        ("0.1.0", "0.1.0"),
    ],
)
def test_a_scalar_is_what_kubernetes_takes_it_for(text: str, value: object) -> None:
    assert read_sidecar((LEAST + f"  x: {text}\n").encode(), file="f").container["x"] == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "f:1:1: the file is empty"),
        ("# nothing\n\n  # here\n", "f:1:1: the file is empty"),
        ("- a\n", "f:1:1: expected a mapping"),
        ("null\n", "f:1:1: expected a mapping"),
        ("a: [\n", "f:2:1: not valid YAML: did not find expected node content"),
        (LEAST + "---\na: 1\n", "f:6:1: a second document starts here; the file is one document"),
        (LEAST + "volumess: []\n", "f:6:1: volumess: unknown key; did you mean volumes?"),
        (LEAST.replace("native: true\n", ""), 'f:1:1: missing key "native"'),
        (LEAST.replace("native: true", 'native: "true"'), "f:1:9: native: expected true or false, got a text"),
        (LEAST.replace("native: true", "native: yes"), 'f:1:9: native: YAML reads `yes` as true; write "yes" in quotes'),
        (LEAST.replace('"1"', "0.1"), "f:2:10: version: expected a text, got a number"),
        (LEAST.replace("  name: tollhouse\n", ""), 'f:4:3: container: missing key "name"'),
        (
            LEAST.replace("tollhouse", "Toll_House"),
            "f:4:9: container.name: expected a name of lower case letters, digits and -, at most 63",
        ),
        (LEAST.replace("image: x", 'image: ""'), "f:5:10: container.image: expected an image"),
        (LEAST + "grace_s: 0\n", "f:6:10: grace_s: expected seconds, at least 1 and at most 86400"),
        (LEAST + "grace_s: 45s\n", "f:6:10: grace_s: expected a whole number, got a text"),
        (LEAST + "volumes: {a: b}\n", "f:6:10: volumes: expected a list, got a mapping"),
        (LEAST + "volumes: [a]\n", "f:6:11: volumes[0]: expected a mapping, got a text"),
        (LEAST + "volumes: [null]\n", "f:6:11: volumes[0]: expected a mapping, got nothing"),
        (LEAST + "volumes: [{name: a}, {name: a}]\n", 'f:6:29: volumes[1].name: the name "a" stands twice in the list'),
        (LEAST + "volumes: [{name: tollhouse-policy, configMap: {}}]\n", 'f:6:47: volumes[0].configMap: missing key "name"'),
        (LEAST + "env: [{value: a}]\n", 'f:6:7: env[0]: missing key "name"'),
        (
            LEAST + "env: [{name: 1A}]\n",
            "f:6:14: env[0].name: expected the name of a variable: letters, digits, - . and _, and no digit first",
        ),
        (LEAST + "env: [{name: A, value: 5}]\n", "f:6:24: env[0].value: expected a text, got a whole number"),
        (LEAST + "  env: [{name: A, value: true}]\n", "f:6:26: container.env[0].value: expected a text, got true or false"),
        (LEAST + "  ports: [{containerPort: http}]\n", "f:6:27: container.ports[0].containerPort: expected a whole number, got a text"),
        (
            LEAST + "  volumeMounts: [{name: polcy, mountPath: /x}]\nvolumes: [{name: policy}]\n",
            "f:6:25: container.volumeMounts[0].name: there is no such volume under `volumes`; did you mean policy?",
        ),
        (
            LEAST + "  restartPolicy: Never\n",
            "f:6:18: container.restartPolicy: a native sidecar's is Always, and a plain container has none; leave it out",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(text: str, told: str) -> None:
    assert mistakes(text) == [told]


def test_all_mistakes_are_told_at_once_and_each_once() -> None:
    told = mistakes("native: 1\ncontainer: {image: 5, ports: [x, {}]}\nvolumes: [{}]\nenv: 5\ntypo: 1\n")
    assert [line.partition(": ")[0] for line in told] == [
        "f:1:1",
        "f:1:9",
        "f:2:12",
        "f:2:20",
        "f:2:31",
        "f:2:34",
        "f:3:11",
        "f:4:6",
        "f:5:1",
    ]
