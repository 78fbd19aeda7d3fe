{{/* Mistakes in values that a schema cannot say, because they compare two of them. Takes the chart's scope. */}}
{{- define "tollhouse.refusals" -}}
{{- if eq (int .Values.ports.data) (int .Values.ports.admin) -}}
{{- fail (printf "tollhouse: ports.data and ports.admin are both %d" (int .Values.ports.data)) -}}
{{- end -}}
{{- with .Values.gateway.autoscaling }}{{ if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "tollhouse: gateway.autoscaling.minReplicas is %d, and maxReplicas only %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end }}{{ end -}}
{{- range .Values.extraEnv }}{{ if hasPrefix "TOLLHOUSE_" .name -}}
{{- fail (printf "tollhouse: extraEnv sets %s; settings of Tollhouse have values of their own" .name) -}}
{{- end }}{{ end -}}
{{- end }}
