{{/*
The container that serves, the same in all three ways. Takes {context, kind}: the chart's scope, and native, plain or gateway.
The rule a reader could break: a sidecar's data port is on 127.0.0.1, in every kind of sidecar.
*/}}
{{- define "tollhouse.container" -}}
{{- $v := .context.Values -}}
{{- $gateway := eq .kind "gateway" -}}
name: tollhouse
image: {{ include "tollhouse.image" .context | quote }}
imagePullPolicy: {{ $v.image.pullPolicy }}
{{- if eq .kind "native" }}
restartPolicy: Always
{{- end }}
args: {{ concat (list "serve") $v.extraArgs | toJson }}
env:
  - {name: TOLLHOUSE_LISTEN, value: "{{ $gateway | ternary $v.listenAddress "127.0.0.1" }}:{{ $v.ports.data }}"}
  {{- include "tollhouse.env" .context | nindent 2 }}
ports:
  - {name: tollhouse, containerPort: {{ $v.ports.data }}, protocol: TCP}
  {{- if $v.admin.expose }}
  {{- /* By its name a PodMonitor finds sidecars, and not gateways, which a ServiceMonitor scrapes. */}}
  - {name: {{ $gateway | ternary "admin" "tollhouse-admin" }}, containerPort: {{ $v.ports.admin }}, protocol: TCP}
  {{- end }}
{{- if $v.admin.expose }}
startupProbe: {httpGet: {path: /readyz, port: {{ $v.ports.admin }}}, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 60}
readinessProbe: {httpGet: {path: /readyz, port: {{ $v.ports.admin }}}, periodSeconds: 5, timeoutSeconds: 3, failureThreshold: 3}
livenessProbe: {httpGet: {path: /healthz, port: {{ $v.ports.admin }}}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
{{- else }}
startupProbe: {exec: {command: [tollhouse, healthcheck, --ready]}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 60}
readinessProbe: {exec: {command: [tollhouse, healthcheck, --ready]}, periodSeconds: 30, timeoutSeconds: 5, failureThreshold: 3}
livenessProbe: {exec: {command: [tollhouse, healthcheck]}, periodSeconds: 30, timeoutSeconds: 5, failureThreshold: 3}
{{- end }}
{{- with include "tollhouse.preStopSeconds" . | int }}
lifecycle:
  preStop: {{ include "tollhouse.sleep" (dict "context" $.context "seconds" .) }}
{{- end }}
resources: {{ toJson $v.resources }}
securityContext: {{ include "tollhouse.securityContext" .context }}
volumeMounts:
  {{- include "tollhouse.mounts" .context | nindent 2 }}
  - {name: tollhouse-state, mountPath: /var/lib/tollhouse}
{{- end }}

{{/* Settings of the process, but for where it listens: also those that `tollhouse check` needs for ${env:NAME}. */}}
{{- define "tollhouse.env" -}}
{{- $v := .Values -}}
- {name: TOLLHOUSE_ADMIN_LISTEN, value: "{{ $v.admin.expose | ternary $v.listenAddress "127.0.0.1" }}:{{ $v.ports.admin }}"}
- {name: TOLLHOUSE_POLICY, value: {{ include "tollhouse.policyFile" . | quote }}}
- {name: TOLLHOUSE_STATE_DIR, value: /var/lib/tollhouse/state}
- {name: TOLLHOUSE_DRAIN_S, value: {{ $v.drainSeconds | int | quote }}}
{{- range $name, $value := dict
  "UPSTREAM" $v.settings.upstream
  "LOG_LEVEL" $v.settings.logLevel
  "LOG_FORMAT" $v.settings.logFormat
  "HEADER_S" (int $v.settings.headerSeconds)
  "BODY_S" (int $v.settings.bodySeconds)
  "MEMORY_LIMIT" $v.settings.memoryLimit
  "MAX_CALLS" (int $v.settings.maxCalls)
  "MAX_CONNECTIONS" (int $v.settings.maxConnections)
}}
{{- if $value }}
- {name: TOLLHOUSE_{{ $name }}, value: {{ toString $value | quote }}}
{{- end }}
{{- end }}
{{- with $v.admin.tokenSecret }}{{ if .name }}
- {name: TOLLHOUSE_ADMIN_TOKEN, valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}}
{{- end }}{{ end }}
{{- with $v.recordKeySecret }}{{ if .name }}
- {name: TOLLHOUSE_RECORD_KEY, valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}}
{{- end }}{{ end }}
{{- range $v.extraEnv }}
- {{ toJson . }}
{{- end }}
{{- end }}

{{/* A name of one form wherever it is mounted: in the injector's pods the key is always policy.yaml. */}}
{{- define "tollhouse.policyFile" -}}
/etc/tollhouse/policy/{{ eq .Values.mode "injector" | ternary "policy.yaml" .Values.policy.key }}
{{- end }}

{{/* Whole folders and never a subPath, which would not follow a change. */}}
{{- define "tollhouse.mounts" -}}
- {name: tollhouse-policy, mountPath: /etc/tollhouse/policy, readOnly: true}
{{- if include "tollhouse.secret" . }}
- {name: tollhouse-secrets, mountPath: /run/secrets/tollhouse, readOnly: true}
{{- end }}
{{- range .Values.extraVolumeMounts }}
- {{ toJson . }}
{{- end }}
{{- end }}

{{/*
Volumes for these mounts. Takes {context, policyConfigMap, mode, check}: mode of the Secret's files, decimal; check: whether it is for
`tollhouse check`, which starts without them and says which file is missing, rather than wait. Beside an app the files are for
everyone to read (0444), for a pod has one fsGroup and it is the app's; only this container mounts them.
*/}}
{{- define "tollhouse.volumes" -}}
- {name: tollhouse-policy, configMap: {name: {{ .policyConfigMap | quote }}{{ if .check }}, optional: true{{ end }}}}
{{- with include "tollhouse.secret" .context }}
- name: tollhouse-secrets
  secret: {secretName: {{ . | quote }}, defaultMode: {{ $.mode }}, optional: {{ or $.check $.context.Values.secrets.optional (eq $.context.Values.mode "injector") }}}
{{- end }}
{{- range .context.Values.extraVolumes }}
- {{ toJson . }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted", and more. */}}
{{- define "tollhouse.securityContext" -}}
{{- $user := dict -}}
{{- if .Values.runAsUser }}{{ $user = dict "runAsUser" (int64 .Values.runAsUser) "runAsGroup" (int64 .Values.runAsUser) }}{{ end -}}
{{- merge $user (dict
  "runAsNonRoot" true
  "allowPrivilegeEscalation" false
  "readOnlyRootFilesystem" true
  "capabilities" (dict "drop" (list "ALL"))
  "seccompProfile" (dict "type" "RuntimeDefault")
) | toJson -}}
{{- end }}
