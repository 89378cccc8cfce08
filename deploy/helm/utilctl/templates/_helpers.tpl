{{/* Names and labels. Selectors must not change from release to release, so versions stay out of them. */}}
{{- define "utilctl.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Arguments: root, component. */}}
{{- define "utilctl.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "utilctl.labels" -}}
{{ include "utilctl.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Arguments: root, name, digest. */}}
{{- define "utilctl.image" -}}
{{- if .digest -}}
{{ .root.Values.image.repository }}/{{ .name }}@{{ .digest }}
{{- else -}}
{{ .root.Values.image.repository }}/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "utilctl.agentAccount" -}}
{{- if .Values.serviceAccount.create }}{{ include "utilctl.fullname" . }}-agent{{ else }}{{ .Values.serviceAccount.agentName | default "default" }}{{ end -}}
{{- end -}}

{{- define "utilctl.controllerAccount" -}}
{{- if .Values.serviceAccount.create }}{{ include "utilctl.fullname" . }}-controller{{ else }}{{ .Values.serviceAccount.controllerName | default "default" }}{{ end -}}
{{- end -}}

{{- define "utilctl.store" -}}
{{- if eq .Values.store.kind "etcd" -}}
etcd:{{ join "," .Values.store.etcd.endpoints }}
{{- else if eq .Values.store.kind "trial-etcd" -}}
etcd:{{ include "utilctl.fullname" . }}-etcd:2379
{{- else -}}
sqlite:/var/lib/utilctl/policy.db
{{- end -}}
{{- end -}}

{{/* What the mechanism needs. The guard's and the loop's real-time priority and locked memory are SYS_NICE and
IPC_LOCK; environments and cgroups of all users' processes SYS_PTRACE, DAC_READ_SEARCH and DAC_OVERRIDE; fork and exit
events NET_ADMIN; signals KILL. */}}
{{- define "utilctl.capabilities" -}}
{{- if .Values.agent.capabilities -}}
{{- toJson .Values.agent.capabilities -}}
{{- else if eq .Values.agent.mechanism "observe" -}}
["SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"]
{{- else if eq .Values.agent.mechanism "weight" -}}
["SYS_NICE", "IPC_LOCK", "DAC_OVERRIDE", "DAC_READ_SEARCH", "SYS_PTRACE", "NET_ADMIN"]
{{- else -}}
["SYS_NICE", "IPC_LOCK", "KILL", "DAC_OVERRIDE", "DAC_READ_SEARCH", "SYS_PTRACE", "NET_ADMIN"]
{{- end -}}
{{- end -}}

{{- define "utilctl.telemetry" -}}
{{- with .Values.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ $.Values.telemetry.sampleRatio | quote }}
{{- end }}
{{- end -}}

{{/* What the schema cannot say. */}}
{{- define "utilctl.check" -}}
{{- if and (eq .Values.store.kind "etcd") (not .Values.store.etcd.endpoints) -}}
{{- fail "store.kind is etcd: list its members in store.etcd.endpoints, for example {etcd-0.etcd:2379}" -}}
{{- end -}}
{{- if and (eq .Values.store.kind "etcd") (gt (len .Values.store.etcd.endpoints) 1) -}}
{{- range .Values.store.etcd.endpoints -}}
{{- if not (regexMatch "^[0-9.]+:[0-9]+$" .) -}}
{{- fail (printf "store.etcd.endpoints has %s in a list of several: list addresses, or one name that resolves to all members" .) -}}
{{- end -}}
{{- end -}}
{{- if .Values.store.etcd.tls.secretName -}}
{{- fail "store.etcd.tls: certificates are checked against one name; put one that resolves to all members in store.etcd.endpoints" -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.store.kind "sqlite") (gt (int .Values.controller.replicas) 1) -}}
{{- fail "store.kind is sqlite, which is for one controller: set controller.replicas=1, or use etcd" -}}
{{- end -}}
{{- end -}}
