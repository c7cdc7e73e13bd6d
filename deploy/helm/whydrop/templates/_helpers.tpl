{{/* The chart's name, or what replaces it. */}}
{{- define "whydrop.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The objects' name: the release's, with the chart's where that does not say it already. */}}
{{- define "whydrop.fullname" -}}
{{- $name := include "whydrop.name" . }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What a selector matches: it never changes in the life of a release. */}}
{{- define "whydrop.selectorLabels" -}}
app.kubernetes.io/name: {{ include "whydrop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "whydrop.labels" -}}
{{ include "whydrop.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The healer's: not the agents', by whose labels their pods are found. */}}
{{- define "whydrop.healSelectorLabels" -}}
app.kubernetes.io/name: {{ include "whydrop.name" . }}-heal
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "whydrop.healLabels" -}}
{{ include "whydrop.healSelectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "whydrop.serviceAccountName" -}}
{{- $own := .Values.serviceAccount.create | ternary (include "whydrop.fullname" .) "default" }}
{{- .Values.serviceAccount.name | default $own }}
{{- end }}

{{/* REPOSITORY:TAG, and @DIGEST where one is given: the digest decides, the tag is for people. */}}
{{- define "whydrop.image" -}}
{{- with .Values.image }}
{{- .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* A map as NAME=VALUE,NAME=VALUE, percent-encoded. */}}
{{- define "whydrop.pairs" -}}
{{- $pairs := list -}}
{{- range $name, $value := . -}}
{{- $pairs = append $pairs (printf "%s=%s" $name ($value | urlquery | replace "+" "%20")) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end -}}
