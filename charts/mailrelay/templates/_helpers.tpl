{{/* The name of everything in the release's namespace. */}}
{{- define "mailrelay.name" -}}
{{- if contains "mailrelay" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-mailrelay" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* The name of cluster-wide objects: two releases must not fight over one. */}}
{{- define "mailrelay.clusterName" -}}
{{ .Release.Namespace }}-{{ include "mailrelay.name" . }}
{{- end }}

{{- define "mailrelay.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "mailrelay.name" .) }}
{{- end }}

{{- define "mailrelay.selector" -}}
app.kubernetes.io/name: mailrelay
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "mailrelay.labels" -}}
{{ include "mailrelay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
