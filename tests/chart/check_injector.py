"""The injector's manifests: who is asked about which pod, what is put into it, and the certificate between them."""

import base64
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.chart.charts import NEWEST, OLDEST, Charts, env_of, one, serving
from tests.chart.sets import rendered


def test_it_puts_in_what_the_template_puts_in(charts: Charts) -> None:
    """One definition of the sidecar: an app's own chart and the injector give a pod the same."""
    text = one(rendered(charts, ("injector", NEWEST)), "ConfigMap")["data"]["sidecar.yaml"]
    file = yaml.safe_load(text)
    assert set(file) == {"version", "native", "grace_s", "container", "volumes", "env"}
    included = one(charts.render("example-app", {}), "Deployment")["spec"]["template"]["spec"]
    ours = serving(included)
    ours["env"] = [entry | {"value": "120"} if entry["name"] == "TOLLHOUSE_DRAIN_S" else entry for entry in ours["env"]]
    assert file["container"] == ours
    assert [v["name"] for v in file["volumes"]] == [v["name"] for v in included["volumes"]][1:]
    assert file["env"] == [{"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:8080/v1"}]
    assert (file["native"], file["grace_s"], file["version"]) == (True, 140, "0.1.0")


def test_what_a_pod_mounts_from_its_own_namespace_can_be_named(charts: Charts) -> None:
    for name, expected in (
        ("injector", ("tollhouse-policy", "tollhouse-secrets")),
        ("injector-existing-certificate", ("llm", "vendors")),
    ):
        file = yaml.safe_load(one(rendered(charts, (name, NEWEST)), "ConfigMap")["data"]["sidecar.yaml"])
        volumes = {volume["name"]: volume for volume in file["volumes"]}
        assert (volumes["tollhouse-policy"]["configMap"]["name"], volumes["tollhouse-secrets"]["secret"]["secretName"]) == expected
        assert volumes["tollhouse-secrets"]["secret"]["optional"]  # not every policy needs one
        assert env_of(file["container"])["TOLLHOUSE_POLICY"] == "/etc/tollhouse/policy/policy.yaml"


def test_on_an_old_cluster_it_puts_in_a_plain_container(charts: Charts) -> None:
    file = yaml.safe_load(one(rendered(charts, ("injector", OLDEST)), "ConfigMap")["data"]["sidecar.yaml"])
    assert file["native"] is False
    assert "restartPolicy" not in file["container"]


def test_a_pod_that_does_not_ask_is_no_concern_of_it(charts: Charts) -> None:
    webhook = one(rendered(charts, ("injector", NEWEST)), "MutatingWebhookConfiguration")["webhooks"][0]
    assert webhook["rules"] == [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"}
    ]
    [condition] = webhook["matchConditions"]
    assert "object.metadata.annotations['tollhouse.dev/inject'] != 'false'" in condition["expression"]
    assert (webhook["failurePolicy"], webhook["sideEffects"], webhook["admissionReviewVersions"]) == ("Ignore", "None", ["v1"])
    old = one(rendered(charts, ("injector", "1.29.0")), "MutatingWebhookConfiguration")["webhooks"][0]
    assert "matchConditions" not in old


def test_it_never_waits_for_itself(charts: Charts) -> None:
    for name, more in (("injector", []), ("injector-closed-fail", ["monitoring"])):
        webhook = one(rendered(charts, (name, NEWEST)), "MutatingWebhookConfiguration")["webhooks"][0]
        [outside, *_] = webhook["namespaceSelector"]["matchExpressions"]
        assert (outside["operator"], outside["values"]) == ("NotIn", ["kube-system", "kube-node-lease", "web", *more])
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["namespaceSelector"]["matchLabels"] == {"tollhouse.dev/injection": "enabled"}
    assert webhook["namespaceSelector"]["matchExpressions"][1:] == [{"key": "env", "operator": "Exists"}]


def test_the_api_server_trusts_the_certificate_for_the_services_name(charts: Charts, tmp_path: Path) -> None:
    documents = rendered(charts, ("injector", NEWEST))
    service = one(documents, "MutatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"]
    assert (service["name"], service["namespace"]) == (one(documents, "Service")["metadata"]["name"], "web")
    bundle = one(documents, "MutatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["caBundle"]
    files = {name: tmp_path / name for name in ("tls.crt", "tls.key")}
    for name, path in files.items():
        path.write_bytes(base64.b64decode(one(documents, "Secret")["data"][name]))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files["tls.crt"], files["tls.key"])
    client = ssl.create_default_context(cadata=base64.b64decode(bundle).decode())
    for host, trusted in ((f"{service['name']}.web.svc", True), ("other.web.svc", False)):
        assert shaken(client, server, host) is trusted


def shaken(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> bool:
    """Whether a handshake over memory succeeds."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server, server_hostname=host), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
    return True


@pytest.mark.parametrize("name", ["injector-cert-manager", "injector-existing-certificate"])
def test_certificates_of_others(charts: Charts, name: str) -> None:
    documents = rendered(charts, (name, NEWEST))
    assert "Secret" not in [d["kind"] for d in documents]
    configuration = one(documents, "MutatingWebhookConfiguration")
    volumes = one(documents, "Deployment")["spec"]["template"]["spec"]["volumes"]
    [secret] = [v["secret"]["secretName"] for v in volumes if "secret" in v]
    if name == "injector-cert-manager":
        certificate = one(documents, "Certificate", "shop-tollhouse-injector")
        authority = one(documents, "Certificate", "shop-tollhouse-injector-ca")
        issuer = one(documents, "Issuer", certificate["spec"]["issuerRef"]["name"])
        # It signs nothing itself: a renewal changes what is shown, and not who is trusted.
        assert issuer["spec"] == {"ca": {"secretName": authority["spec"]["secretName"]}}
        assert certificate["spec"]["secretName"] == secret
        from_ = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
        assert from_ == f"web/{certificate['metadata']['name']}"
    else:
        assert (configuration["webhooks"][0]["clientConfig"]["caBundle"], secret) == ("Zm9v", "webhook-tls")


def test_the_webhook_takes_what_the_chart_gives_it_and_a_pod_gets_what_the_template_gives(charts: Charts, tmp_path: Path) -> None:
    """The command of the Deployment with its files, asked as the API server asks."""
    documents = rendered(charts, ("injector", NEWEST))
    for name, text in one(documents, "Secret")["data"].items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    (tmp_path / "sidecar.yaml").write_text(one(documents, "ConfigMap")["data"]["sidecar.yaml"], "utf-8")
    [container] = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    here = {"/etc/tollhouse/tls": tmp_path, "/etc/tollhouse/sidecar": tmp_path, "0.0.0.0:8443": "127.0.0.1:0"}
    arguments = container["args"]
    for there, path in here.items():
        arguments = [argument.replace(there, str(path)) for argument in arguments]
    process = subprocess.Popen([sys.executable, "-m", "proxy", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["listen"].rpartition(":")[2])
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": {"tollhouse.dev/inject": "true"}}}
        spec = {"containers": [{"name": "app", "image": "a"}]}
        request = {"uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "web", "operation": "CREATE"}
        request |= {"resource": {"group": "", "version": "v1", "resource": "pods"}, "object": {**pod, "spec": spec}}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        answer = asked(port, "shop-tollhouse-injector.web.svc", tmp_path / "ca.crt", review)["response"]
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert (answer["uid"], answer["allowed"], process.returncode) == ("u", True, 0)
    added = {change["path"]: change["value"] for change in json.loads(base64.b64decode(answer["patch"]))}
    app = one(charts.render("example-app", {"tollhouse": {"drainSeconds": 120}}), "Deployment")["spec"]["template"]["spec"]
    assert added["/spec/initContainers"] == app["initContainers"]
    assert added["/spec/terminationGracePeriodSeconds"] == app["terminationGracePeriodSeconds"]


def asked(port: int, host: str, trusted: Path, review: object) -> dict[str, dict[str, object]]:
    """One AdmissionReview, by a client that trusts what the webhook's configuration trusts, and asks for the Service's name."""
    body = json.dumps(review).encode()
    fields = (f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    head = "\r\n".join(("POST /inject HTTP/1.1", *fields, "\r\n"))
    context = ssl.create_default_context(cafile=str(trusted))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as link,
    ):
        link.sendall(head.encode() + body)
        with link.makefile("rb") as file:
            found: dict[str, dict[str, object]] = json.loads(file.read().partition(b"\r\n\r\n")[2])
    return found
