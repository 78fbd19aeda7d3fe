{{/* Mistakes in values that a schema cannot say, because they compare two of them. Takes the chart's scope. */}}
{{- define "tollhouse.refusals" -}}
{{- if eq (int .Values.ports.data) (int .Values.ports.admin) -}}
{{- fail (printf "tollhouse: ports.data and ports.admin are both %d" (int .Values.ports.data)) -}}
{{- end -}}
{{- with .Values.gateway.autoscaling }}{{ if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "tollhouse: gateway.autoscaling.minReplicas is %d, and maxReplicas only %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end }}{{ end -}}
{{- if eq .Values.mode "gateway" -}}
{{- $most := int .Values.gateway.replicas -}}
{{- with .Values.gateway.autoscaling }}{{ if .enabled }}{{ $most = int .maxReplicas }}{{ end }}{{ end -}}
{{- if and (gt $most 1) (ne .Values.gateway.limits "perReplica") -}}
{{- fail (printf "tollhouse: up to %d replicas, and they share no limits and budgets: %d let through %d times as much. Keep one, or say gateway.limits: perReplica if that is meant" $most $most $most) -}}
{{- end -}}
{{- if and (gt $most 1) .Values.gateway.persistence.enabled -}}
{{- fail (printf "tollhouse: up to %d replicas and one volume, which only one can have. Set gateway.persistence.enabled to false: each then has a folder of its own, which ends with its pod" $most) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled (ne .Values.mode "gateway") -}}
{{- fail (printf "tollhouse: monitoring.serviceMonitor is for a gateway, and mode is %s: its pods are scraped by monitoring.podMonitor" .Values.mode) -}}
{{- end -}}
{{- if and .Values.monitoring.podMonitor.enabled (eq .Values.mode "gateway") -}}
{{- fail "tollhouse: monitoring.podMonitor is for sidecars, and mode is gateway, which monitoring.serviceMonitor scrapes" -}}
{{- end -}}
{{- range .Values.extraEnv }}{{ if hasPrefix "TOLLHOUSE_" .name -}}
{{- fail (printf "tollhouse: extraEnv sets %s; settings of Tollhouse have values of their own" .name) -}}
{{- end }}{{ end -}}
{{- end }}
