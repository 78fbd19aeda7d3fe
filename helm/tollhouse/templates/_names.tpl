{{/*
Names and labels. Every template here takes the scope of this chart: `.` inside it, `.Subcharts.tollhouse` in a chart above. Chart.Name is
its alias where it has one, so that a sidecar's policy and a gateway may stand in one release.
*/}}

{{- define "tollhouse.fullname" -}}
{{- $chart := .Chart.Name | lower | replace "_" "-" -}}
{{- $name := .Values.fullnameOverride | default (contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart)) -}}
{{- $name | trunc 48 | trimSuffix "-" -}}
{{- end }}

{{- define "tollhouse.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tollhouse.labels" -}}
{{ include "tollhouse.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "tollhouse-%s" .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tollhouse.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* The ConfigMap that holds the policy. */}}
{{- define "tollhouse.policyConfigMap" -}}
{{- if eq .Values.mode "injector" -}}
{{ .Values.injector.policyConfigMap }}
{{- else -}}
{{ .Values.policy.existingConfigMap | default (printf "%s-policy" (include "tollhouse.fullname" .)) }}
{{- end -}}
{{- end }}

{{/* The Secret whose keys are files for the policy, or nothing. */}}
{{- define "tollhouse.secret" -}}
{{ eq .Values.mode "injector" | ternary .Values.injector.secret .Values.secrets.existingSecret }}
{{- end }}
