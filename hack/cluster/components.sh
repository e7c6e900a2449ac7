# shellcheck shell=bash
# The six programs of the cluster: their files, how each is started, how each
# shows that it is healthy. Sourced by up, down and status.

# In the order of start; the way down is the reverse.
readonly COMPONENTS=(etcd containerd kube-apiserver kube-controller-manager kube-scheduler kubelet)

# ---- files -----------------------------------------------------------------------

write_files() {
	mkdir -p "$STATE"/{etcd,pki,cni,run,kubelet,volume-plugins}
	chmod 700 "$STATE"/{etcd,pki}
	write_credentials
	write_containerd_config
	write_cni_config
	write_kubelet_config
}

write_credentials() {
	[[ -e $STATE/pki/service-account.key ]] || openssl genrsa -out "$STATE/pki/service-account.key" 2048 2>/dev/null
	[[ -e $STATE/pki/token ]] || openssl rand -hex 32 >"$STATE/pki/token"
	local token
	token=$(<"$STATE/pki/token")
	(
		umask 077
		echo "$token,admin,admin,\"system:masters\"" >"$STATE/pki/tokens.csv"
		cat >"$KUBECONFIG_LOCAL" <<-EOF
			apiVersion: v1
			kind: Config
			current-context: mailrelay
			clusters:
			  - name: mailrelay
			    cluster:
			      server: https://$NODE_IP
			      certificate-authority: $STATE/pki/apiserver.crt
			contexts:
			  - name: mailrelay
			    context: {cluster: mailrelay, user: admin}
			users:
			  - name: admin
			    user: {token: $token}
		EOF
	)
}

# Overlay mounts do not work on top of another overlay (a container's own root, for instance).
snapshotter() {
	local dir=$STATE/overlay-test
	mkdir -p "$dir"/{lower,upper,work,merged}
	if mount -t overlay overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/merged" 2>/dev/null; then
		umount "$dir/merged"
		echo overlayfs
	else
		echo native
	fi
	rm -rf "$dir"
}

write_containerd_config() {
	cat >"$STATE/containerd.toml" <<-EOF
		version = 2
		root = "$STATE/containerd"
		state = "$STATE/run/containerd"
		disabled_plugins = [
		  "io.containerd.internal.v1.opt",
		  "io.containerd.internal.v1.tracing",
		  "io.containerd.tracing.processor.v1.otlp",
		  "io.containerd.snapshotter.v1.aufs",
		  "io.containerd.snapshotter.v1.btrfs",
		  "io.containerd.snapshotter.v1.devmapper",
		  "io.containerd.snapshotter.v1.zfs",
		]

		[grpc]
		  address = "$CONTAINERD_SOCKET"

		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$PAUSE_IMAGE"
		  disable_apparmor = true
		  restrict_oom_score_adj = true
		  netns_mounts_under_state_dir = true
		  stream_server_address = "127.0.0.1"

		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "$(cni_plugins)"
		    conf_dir = "$STATE/cni"

		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "$(snapshotter)"
		    default_runtime_name = "runc"

		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		      runtime_type = "io.containerd.runc.v2"

		      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		        SystemdCgroup = false
		        Root = "$STATE/run/runc"
	EOF
}

cni_plugins() {
	local dir
	for dir in /usr/lib/cni /opt/cni/bin; do
		if [[ -x $dir/bridge && -x $dir/host-local ]]; then
			echo "$dir"
			return
		fi
	done
	return 1
}

# No masquerade: a mail server beside the cluster sees each pod's own address.
write_cni_config() {
	cat >"$STATE/cni/10-mailrelay.conflist" <<-EOF
		{
		  "cniVersion": "0.4.0",
		  "name": "$NETNS",
		  "plugins": [
		    {
		      "type": "bridge",
		      "bridge": "cni0",
		      "isGateway": true,
		      "ipMasq": false,
		      "ipam": {
		        "type": "host-local",
		        "dataDir": "$STATE/run/ipam",
		        "ranges": [[{"subnet": "$POD_NET"}]],
		        "routes": [{"dst": "0.0.0.0/0"}]
		      }
		    }
		  ]
		}
	EOF
}

# Nothing listens on port 53 of the node: names that are not in a pod's
# /etc/hosts fail at once instead of after a resolver's time limit.
write_kubelet_config() {
	echo "nameserver $NODE_IP" >"$STATE/resolv.conf"
	cat >"$STATE/kubelet.yaml" <<-EOF
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
		authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
		authorization: {mode: AlwaysAllow}
		address: $NODE_IP
		readOnlyPort: 0
		resolvConf: $STATE/resolv.conf
		clusterDNS: [$NODE_IP]
		clusterDomain: cluster.local
		podLogsDir: $STATE/pod-logs
		volumePluginDir: $STATE/volume-plugins
		makeIPTablesUtilChains: false
		# cgroups: version 1 is allowed, and everything of ours lies below one folder
		failCgroupV1: false
		cgroupDriver: cgroupfs
		cgroupRoot: /$CGROUP
		enforceNodeAllocatable: [none]
		failSwapOn: false
		# a developer's machine may be short of anything: never evict, never collect our images
		localStorageCapacityIsolation: false
		evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%, imagefs.inodesFree: 1%}
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
		# tests kill the same container many times: it shall come back soon each time
		crashLoopBackOff: {maxContainerRestartPeriod: 2s}
		# tests start and end many pods at once
		maxPods: 200
		serializeImagePulls: false
		kubeAPIQPS: 200
		kubeAPIBurst: 400
		eventRecordQPS: 0
		syncFrequency: 10s
		shutdownGracePeriod: 0s
	EOF
}

# ---- starting --------------------------------------------------------------------

start_component() {
	case $1 in
	etcd)
		start etcd "$BIN/etcd" --name=mailrelay --data-dir="$STATE/etcd" --unsafe-no-fsync --log-level=warn \
			--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
			--listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
			--initial-cluster=mailrelay=http://127.0.0.1:2380
		;;
	containerd)
		start containerd containerd --config="$STATE/containerd.toml" --log-level=warn
		;;
	kube-apiserver)
		start kube-apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
			--cert-dir="$STATE/pki" --bind-address=0.0.0.0 --secure-port=443 --advertise-address="$NODE_IP" \
			--service-cluster-ip-range="$SERVICE_NET" --service-account-issuer="https://$NODE_IP" \
			--service-account-key-file="$STATE/pki/service-account.key" \
			--service-account-signing-key-file="$STATE/pki/service-account.key" \
			--authorization-mode=RBAC --token-auth-file="$STATE/pki/tokens.csv" \
			--allow-privileged=true --kubelet-preferred-address-types=InternalIP --profiling=false
		;;
	kube-controller-manager)
		start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$KUBECONFIG_LOCAL" \
			--service-account-private-key-file="$STATE/pki/service-account.key" --root-ca-file="$STATE/pki/apiserver.crt" \
			--use-service-account-credentials=false --leader-elect=false --profiling=false \
			--bind-address=127.0.0.1 --cert-dir="$STATE/pki" --kube-api-qps=200 --kube-api-burst=400
		;;
	kube-scheduler)
		start kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$KUBECONFIG_LOCAL" --leader-elect=false \
			--bind-address=127.0.0.1 --cert-dir="$STATE/pki" --kube-api-qps=200 --kube-api-burst=400
		;;
	kubelet)
		start kubelet "$BIN/kubelet" --config="$STATE/kubelet.yaml" --kubeconfig="$KUBECONFIG_LOCAL" \
			--root-dir="$STATE/kubelet" --cert-dir="$STATE/pki" --hostname-override="$NODE" --node-ip="$NODE_IP"
		;;
	esac
}

# ---- health ----------------------------------------------------------------------

# A plain GET without a client of our own to start: good HTTP answers only.
http_ok() { in_netns timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1 && printf 'GET $2 HTTP/1.0\r\n\r\n' >&3 && grep -q '^HTTP/1.[01] 200' <&3"; }

healthy() {
	alive "$1" || return 1
	case $1 in
	etcd) http_ok 2379 /health ;;
	containerd) timeout 5 ctr --address "$CONTAINERD_SOCKET" version ;;
	kube-apiserver) kubectl_local --request-timeout=2s get --raw=/readyz ;;
	kubelet) http_ok 10248 /healthz ;;
	esac >/dev/null 2>&1 # the other two: a living process is all that matters here
}

node_ready() {
	[[ $(kubectl_local get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status} {.spec.taints}' 2>/dev/null) == "True " ]]
}

default_account_exists() { kubectl_local get serviceaccount default --namespace=default; }

all_healthy() {
	local name
	[[ -e $STATE/complete && -e $NETNS_FILE ]] || return 1
	for name in "${COMPONENTS[@]}"; do healthy "$name" || return 1; done
	node_ready
}
