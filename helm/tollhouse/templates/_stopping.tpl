{{/*
How a pod stops. Everything is derived from `drainSeconds`, so that nobody has to keep two numbers in step:
    grace period = preStop + drain + margin
The margin is for what comes after: 10 s for the last event of streams that were cut, 2 s for pages, and what is settled and written.
*/}}

{{/* Takes {context, kind}. A native sidecar needs none: it is stopped after the app. */}}
{{- define "tollhouse.preStopSeconds" -}}
{{- if eq .kind "gateway" }}{{ .context.Values.gateway.preStopSeconds }}{{ else if eq .kind "plain" }}{{ .context.Values.sidecar.preStopSeconds }}{{ else }}0{{ end -}}
{{- end }}

{{/* Takes {context, kind}. */}}
{{- define "tollhouse.grace" -}}
{{ add (include "tollhouse.preStopSeconds" . | int) (int .context.Values.drainSeconds) 20 }}
{{- end }}

{{/* A handler that waits: of Kubernetes where it has one, of the image's Python where not. */}}
{{- define "tollhouse.sleep" -}}
{{- if semverCompare ">=1.30.0-0" .context.Capabilities.KubeVersion.Version -}}
{sleep: {seconds: {{ .seconds }}}}
{{- else -}}
{exec: {command: [python3, -c, "import time; time.sleep({{ .seconds }})"]}}
{{- end -}}
{{- end }}

{{/* native or plain. Takes the chart's scope. */}}
{{- define "tollhouse.sidecarKind" -}}
{{- $native := toString .Values.sidecar.native -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if and (eq $native "true") (semverCompare "<1.28.0-0" $version) -}}
{{- fail (printf "tollhouse: sidecar.native is true, but Kubernetes %s knows no native sidecars. Leave it at auto, or set it to false." $version) -}}
{{- end -}}
{{- if eq $native "auto" }}{{ semverCompare ">=1.29.0-0" $version | ternary "native" "plain" }}{{ else }}{{ eq $native "true" | ternary "native" "plain" }}{{ end -}}
{{- end }}
