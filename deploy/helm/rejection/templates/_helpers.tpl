{{- define "rejection.name" -}}
{{- (contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name)) | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "rejection.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rejection.labels" -}}
{{ include "rejection.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* An image's name: its digest, else its tag, else the chart's appVersion. Takes the image and the chart. */}}
{{- define "rejection.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}
{{- else }}{{ .image.repository }}:{{ .image.tag | default .chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The pools as JSON, each with what pools have in common where it says nothing of its own. */}}
{{- define "rejection.pools" -}}
{{- $pools := dict }}
{{- range $name, $pool := .Values.pools }}
{{- if not (kindIs "invalid" $pool) }}
{{- $_ := set $pools $name (mergeOverwrite (deepCopy $.Values.defaults) $pool) }}
{{- end }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{/* MiB of a pod: what it takes at all events, each instance, /dev/shm. */}}
{{- define "rejection.memory" -}}
{{- add .baseMemoryMi (mul .cores .instanceMemoryMi) .sharedMemoryMi -}}
{{- end }}

{{- define "rejection.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "rejection.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Contradictions that a schema cannot tell. */}}
{{- define "rejection.check" -}}
{{- if and .Values.door.enabled .Values.server.tlsSecret }}
{{- fail "server.tlsSecret is for callers who reach the servers themselves: set door.enabled to false, or give the certificate to the door (door.tlsSecret)" }}
{{- end }}
{{- if and .Values.door.enabled .Values.route.enabled }}
{{- fail "door and route both take the calls: set door.enabled to false to use the Gateway API's route" }}
{{- end }}
{{- if and .Values.door.clientCaSecret (not .Values.door.tlsSecret) }}
{{- fail "door.clientCaSecret asks callers for certificates, which takes TLS: give door.tlsSecret too" }}
{{- end }}
{{- if and .Values.server.clientCaSecret (not .Values.server.tlsSecret) }}
{{- fail "server.clientCaSecret asks callers for certificates, which takes TLS: give server.tlsSecret too" }}
{{- end }}
{{- if and (eq .Values.model.source "claim") (not .Values.model.claim) }}
{{- fail "model.source is claim: name the PersistentVolumeClaim in model.claim" }}
{{- end }}
{{- if and (eq .Values.model.source "prepare") (not .Values.model.prepare.id) }}
{{- fail "model.source is prepare: name the model in model.prepare.id" }}
{{- end }}
{{- range $name, $pool := fromJson (include "rejection.pools" .) }}
{{- if lt (int $pool.terminationGracePeriodSeconds) (add (int $pool.preStopSeconds) 35 | int) }}
{{- fail (printf "pool %s: terminationGracePeriodSeconds has to be 35 more than preStopSeconds, as requests under way may take 30 s" $name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Options of `serve` as its environment variables. */}}
{{- define "rejection.environment" -}}
{{- $set := dict "REJECTION_HOST" "0.0.0.0" "REJECTION_DEVICE" .pool.device "REJECTION_LOG_FORMAT" "json" }}
{{- if ne .values.model.source "image" }}
{{- $_ := set $set "REJECTION_REPOSITORY" "/models" }}
{{- end }}
{{- if .values.server.tlsSecret }}
{{- $_ := set $set "REJECTION_TLS_CERT" "/etc/rejection/tls/tls.crt" }}
{{- $_ := set $set "REJECTION_TLS_KEY" "/etc/rejection/tls/tls.key" }}
{{- end }}
{{- if .values.server.clientCaSecret }}
{{- $_ := set $set "REJECTION_TLS_CLIENT_CA" "/etc/rejection/client-ca/ca.crt" }}
{{- end }}
{{- if .values.server.tokenSecret }}
{{- $_ := set $set "REJECTION_TOKEN_FILE" "/etc/rejection/token/token" }}
{{- end }}
{{- if .values.server.adminKeySecret }}
{{- $_ := set $set "REJECTION_ADMIN_KEY_FILE" "/etc/rejection/admin/key" }}
{{- end }}
{{- toYaml (mergeOverwrite $set .pool.environment) }}
{{- end }}

{{/* Probe of a server: by gRPC, which the kubelet speaks in plain text only; with TLS the server asks itself. */}}
{{- define "rejection.probe" -}}
{{- if .tlsSecret -}}
exec:
  command: [rejection-server, health]
{{- else -}}
grpc:
  port: 8001
{{- end }}
{{- end }}

{{/* Up at once, to twice as many; down by a tenth a minute when the queue has been short for long. */}}
{{- define "rejection.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - type: Percent
      value: 100
      periodSeconds: 15
    - type: Pods
      value: 4
      periodSeconds: 15
  selectPolicy: Max
scaleDown:
  stabilizationWindowSeconds: {{ .scaling.scaleDownSeconds }}
  policies:
    - type: Percent
      value: 10
      periodSeconds: 60
    - type: Pods
      value: 1
      periodSeconds: 60
  selectPolicy: Max
{{- end }}

{{/* Envoy's configuration, docker/envoy's with this cluster's servers, its certificates, and as many calls as they take. */}}
{{- define "rejection.envoy" -}}
{{- $config := .Files.Get "files/envoy.yaml" | fromYaml }}
{{- $chain := index (index $config.static_resources.listeners 0).filter_chains 0 }}
{{- if .Values.door.tlsSecret }}
{{- $tls := $chain.transport_socket.typed_config }}
{{- if .Values.door.clientCaSecret }}
{{- $_ := set $tls "require_client_certificate" true }}
{{- else }}
{{- $_ := unset $tls.common_tls_context "validation_context_sds_secret_config" }}
{{- end }}
{{- else }}
{{- $_ := unset $chain "transport_socket" }}
{{- end }}
{{- $servers := dict }}
{{- range $config.static_resources.clusters }}
{{- if eq .name "servers" }}{{ $servers = . }}{{ end }}
{{- end }}
{{- $host := printf "%s-servers.%s.svc" (include "rejection.name" .) .Release.Namespace }}
{{- $address := dict "socket_address" (dict "address" $host "port_value" 8001) }}
{{- $_ := set (index $servers.load_assignment.endpoints 0) "lb_endpoints" (list (dict "endpoint" (dict "address" $address))) }}
{{- $limits := index $servers.circuit_breakers.thresholds 0 }}
{{- $_ := set $limits "max_requests" .Values.door.maxRequests }}
{{- $_ := set $limits "max_pending_requests" .Values.door.maxRequests }}
{{- $_ := set $limits "max_connections" 16384 }}
{{- toYaml $config }}
{{- end }}

{{/* The paths that docker/envoy lets through, as a list in JSON. */}}
{{- define "rejection.methods" -}}
{{- $config := .Files.Get "files/envoy.yaml" | fromYaml }}
{{- $manager := index (index (index $config.static_resources.listeners 0).filter_chains 0).filters 0 }}
{{- $paths := list }}
{{- range (index $manager.typed_config.http_filters 0).typed_config.rules.policies.callers.permissions }}
{{- $paths = append $paths .url_path.path.exact }}
{{- end }}
{{- toJson $paths }}
{{- end }}
