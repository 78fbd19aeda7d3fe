{{/* The app's pods as they would be without Tollhouse. Takes {context, arguments}. */}}
{{- define "example-app.pod" -}}
automountServiceAccountToken: false
securityContext: {runAsNonRoot: true, runAsUser: 10001, seccompProfile: {type: RuntimeDefault}}
containers:
  - name: app
    image: {{ .context.Values.image | quote }}
    imagePullPolicy: {{ .context.Values.pullPolicy }}
    command: {{ concat (list "python3" "/app/app.py") .arguments | toJson }}
    env:
      - {name: MODEL, value: {{ .context.Values.model | quote }}}
      # SDKs want one. The default policy asks nobody in the pod for a key; a policy with keys does, and then this comes from a Secret.
      - {name: OPENAI_API_KEY, value: none}
    {{- if not .arguments }}
    ports: [{name: http, containerPort: 8000}]
    {{- end }}
    resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 64Mi}}
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: app, mountPath: /app, readOnly: true}]
volumes:
  - {name: app, configMap: {name: {{ .context.Release.Name }}-example-app}}
{{- end }}
