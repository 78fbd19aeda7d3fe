{{/*
The sidecar, for the pods of another chart. It takes a pod spec and gives it back with Tollhouse in it:

    spec:
      template:
        spec:
          {{- include "tollhouse.sidecar" (dict "context" $ "workload" "Deployment" "pod" (include "my-app.pod" $)) | nindent 6 }}

context:    the scope of the app's chart, whose dependency `tollhouse` is
pod:        text of the pod's spec
workload:   Deployment, StatefulSet, DaemonSet, Job or CronJob
containers: names of those that are pointed at Tollhouse; by default all that run while it does, which init containers beside a plain one do not
alias:      of the dependency, where it has one

The rule a reader could break: what the app wrote stays. A name that both use is refused, and never overwritten.
*/}}
{{- define "tollhouse.sidecar" -}}
{{- $known := list "context" "pod" "workload" "containers" "alias" -}}
{{- range keys . }}{{ if not (has . $known) }}{{ fail (printf "tollhouse.sidecar: there is no argument %q; there are: %s" . (join ", " $known)) }}{{ end }}{{ end -}}
{{- $workload := .workload | default "" -}}
{{- if not (has $workload (list "Deployment" "StatefulSet" "DaemonSet" "Job" "CronJob")) -}}
{{- fail (printf "tollhouse.sidecar: workload is %q; it must be Deployment, StatefulSet, DaemonSet, Job or CronJob" $workload) -}}
{{- end -}}
{{- $alias := .alias | default "tollhouse" -}}
{{- $context := index .context.Subcharts $alias -}}
{{- if not $context -}}
{{- fail (printf "tollhouse.sidecar: the chart %s has no dependency %q" .context.Chart.Name $alias) -}}
{{- end -}}
{{- if ne $context.Values.mode "sidecar" -}}
{{- fail (printf "tollhouse.sidecar: %s.mode is %s; for a pod of your own it must be sidecar" $alias $context.Values.mode) -}}
{{- end -}}
{{- $pod := fromYaml .pod -}}
{{- if or (hasKey $pod "Error") (not $pod.containers) -}}
{{- fail (printf "tollhouse.sidecar: pod is not the text of a pod spec with containers: %s" ($pod.Error | default "it has none")) -}}
{{- end -}}
{{- $kind := include "tollhouse.sidecarKind" $context -}}
{{- if and (eq $kind "plain") (has $workload (list "Job" "CronJob")) -}}
{{- fail (printf "tollhouse.sidecar: a %s would never complete beside a plain container. It takes native sidecars (Kubernetes 1.29 or newer; this is %s, and sidecar.native is %v), or calls a gateway instead." $workload $context.Capabilities.KubeVersion.Version $context.Values.sidecar.native) -}}
{{- end -}}
{{- if $pod.hostNetwork -}}
{{- fail "tollhouse.sidecar: the pod has hostNetwork, so 127.0.0.1 is the node's, and others on the node could call. Use a gateway." -}}
{{- end -}}

{{- $ours := include "tollhouse.container" (dict "context" $context "kind" $kind) | fromYaml -}}
{{- $volumes := include "tollhouse.sidecarVolumes" $context | fromYamlArray -}}
{{- $taken := list -}}
{{- range $pod.volumes }}{{ $taken = append $taken .name }}{{ end -}}
{{- range $volumes }}{{ if has .name $taken }}{{ fail (printf "tollhouse.sidecar: the pod has a volume %q already" .name) }}{{ end }}{{ end -}}

{{- $env := include "tollhouse.appEnv" $context | fromYamlArray -}}
{{- $wanted := .containers | default list -}}
{{- $seen := list -}}
{{- range $list := list "initContainers" "containers" -}}
{{- range $container := index $pod $list -}}
{{- if eq $container.name "tollhouse" }}{{ fail "tollhouse.sidecar: the pod has a container named tollhouse already" }}{{ end -}}
{{- range $container.ports }}{{ if has (int .containerPort) (list (int $context.Values.ports.data) (int $context.Values.ports.admin)) -}}
{{- fail (printf "tollhouse.sidecar: the container %s uses port %d, and so does Tollhouse. Set %s.ports.data or %s.ports.admin to another." $container.name (int .containerPort) $alias $alias) -}}
{{- end }}{{ end -}}
{{- if or (eq $list "containers") (eq $kind "native") -}}
{{- $seen = append $seen $container.name -}}
{{- if or (not $wanted) (has $container.name $wanted) -}}
{{- $own := list -}}
{{- range $container.env }}{{ $own = append $own .name }}{{ end -}}
{{- $added := list -}}
{{- range $env }}{{ if not (has .name $own) }}{{ $added = append $added . }}{{ end }}{{ end -}}
{{- $_ := set $container "env" (concat $added ($container.env | default list)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $wanted }}{{ if not (has . $seen) }}{{ fail (printf "tollhouse.sidecar: the pod has no container %q that runs while Tollhouse does; it has: %s" . (join ", " $seen)) }}{{ end }}{{ end -}}

{{- if eq $kind "native" -}}
{{- $_ := set $pod "initContainers" (concat (list $ours) ($pod.initContainers | default list)) -}}
{{- else -}}
{{- $_ := set $pod "containers" (append $pod.containers $ours) -}}
{{- end -}}
{{- $_ := set $pod "volumes" (concat ($pod.volumes | default list) $volumes) -}}
{{- $grace := include "tollhouse.grace" (dict "context" $context "kind" $kind) | int -}}
{{- $_ := set $pod "terminationGracePeriodSeconds" (max $grace (int ($pod.terminationGracePeriodSeconds | default 30))) -}}
{{- toYaml $pod -}}
{{- end }}

{{/* Takes the chart's scope, as those below. */}}
{{- define "tollhouse.sidecarVolumes" -}}
{{ include "tollhouse.volumes" (dict "context" . "policyConfigMap" (include "tollhouse.policyConfigMap" .) "mode" 292 "check" false) }}
- {name: tollhouse-state, emptyDir: {}}
{{- end }}

{{- define "tollhouse.appEnv" -}}
{{- range .Values.sidecar.baseUrlVariables }}
- {name: {{ . | quote }}, value: "http://127.0.0.1:{{ $.Values.ports.data }}/v1"}
{{- end }}
{{- end }}
