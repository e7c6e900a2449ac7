# shellcheck shell=bash disable=SC2034
# Settings, messages, processes: what the scripts of the local cluster share.
# Sourced, never run.

CLUSTER_HACK=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly CLUSTER_HACK

# local: a cluster of our own, made by `up`. current: whatever the current kubeconfig context names.
readonly CLUSTER=${CLUSTER:-local}

readonly CACHE=${MAILRELAY_CACHE:-${HOME:-/root}/.cache/mailrelay}
readonly STATE=${MAILRELAY_CLUSTER_DIR:-/var/tmp/mailrelay-cluster}
readonly NETNS=${MAILRELAY_NETNS:-mailrelay}
readonly NETNS_FILE=/var/run/netns/$NETNS
readonly LOCK=/run/lock/mailrelay-cluster-$NETNS.lock
readonly CGROUP=$NETNS # under the root of each cgroup hierarchy

# Addresses, all inside the network namespace. The API's service address sits on
# the bridge too: that makes in-cluster configuration work without kube-proxy.
readonly NODE_IP=10.88.0.1
readonly POD_NET=10.88.0.0/16
readonly SERVICE_NET=10.86.0.0/24
readonly SERVICE_IP=10.86.0.1
readonly NODE=mailrelay-node

readonly KUBECONFIG_LOCAL=$STATE/kubeconfig
readonly CONTAINERD_SOCKET=$STATE/run/containerd.sock
readonly PAUSE_IMAGE=localhost/pause:dev

# Versions. Those of Kubernetes and etcd are the ones in tools/go.mod.
KUBE_VERSION=$(sed -n 's|^.*k8s.io/kubernetes \(v[0-9.]*\)$|\1|p' "$CLUSTER_HACK/tools/go.mod")
ETCD_VERSION=$(sed -n 's|^.*go.etcd.io/etcd/server/v3 \(v[0-9.]*\)$|\1|p' "$CLUSTER_HACK/tools/go.mod")
readonly KUBE_VERSION ETCD_VERSION
readonly HELM_VERSION=v4.3.1
readonly KUBECONFORM_VERSION=v0.8.0

# Another version of anything means another folder.
BIN=$CACHE/bin-$KUBE_VERSION-$(cat "$CLUSTER_HACK"/tools/go.{mod,sum} "$CLUSTER_HACK/tools/build" <(echo "$HELM_VERSION $KUBECONFORM_VERSION") | sha256sum | cut -c1-8)
readonly BIN

# Debian keeps them out of the PATH of an ordinary user.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "cluster: $*" >&2; }

die() {
	say "$*"
	exit 1
}

require_root() {
	((EUID == 0)) || die "the local cluster needs root (network namespace, containers); run as root, or use CLUSTER=current with a cluster you have"
}

require_known_cluster() {
	case $CLUSTER in
	local | current) ;;
	*) die "CLUSTER=$CLUSTER is neither 'local' nor 'current'" ;;
	esac
}

# One up or down at a time. The file lies outside $STATE, which `down` deletes.
# Daemons must not inherit descriptor 9, or they would hold the lock.
take_lock() {
	exec 9>"$LOCK"
	if ! flock -n 9; then
		say "another run is busy with this cluster: waiting for it"
		flock -w 600 9 || die "gave up after 10 minutes: $LOCK is still held"
	fi
}

# Waits until a command succeeds: wait_until SECONDS COMMAND...
wait_until() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || return 1
		sleep 0.2
	done
}

# ---- the network namespace and the clients -------------------------------------

# nsenter, not `ip netns exec`: that one remounts /sys and loses the cgroup mounts.
in_netns() { nsenter --net="$NETNS_FILE" -- "$@"; }

kubectl_local() { in_netns "$BIN/kubectl" --kubeconfig="$KUBECONFIG_LOCAL" "$@"; }

ctr_local() { ctr --address "$CONTAINERD_SOCKET" --namespace k8s.io "$@"; }

# Replaces this shell by a command that sees the cluster: inside the namespace,
# with KUBECONFIG set and our kubectl and helm first on the PATH.
exec_on_cluster() {
	require_known_cluster
	if [[ $CLUSTER == local ]]; then
		require_root
		[[ -e $NETNS_FILE && -e $KUBECONFIG_LOCAL ]] || die "the cluster is not up: make cluster-up"
		export KUBECONFIG=$KUBECONFIG_LOCAL
		export PATH=$BIN:$PATH
		[[ $(readlink /proc/self/ns/net) != "net:[$(stat -L -c %i "$NETNS_FILE")]" ]] || exec "$@"
		exec nsenter --net="$NETNS_FILE" -- "$@"
	fi
	exec "$@"
}

# ---- processes -------------------------------------------------------------------

# A process id alone may have been given to someone else: the pidfile also holds
# the start time. /proc/PID/stat has it as field 22 and the state as field 3,
# counted here from after the name, which may contain blanks. A zombie counts as
# ended: whoever adopted it has yet to collect it.
start_time() {
	local stat
	stat=$(<"/proc/$1/stat") || return 1
	# shellcheck disable=SC2086 # split into fields on purpose
	set -- ${stat##*) }
	[[ $1 != Z ]] || return 1
	echo "${20}"
} 2>/dev/null

# Prints the id of a component's process if that very process lives.
pid_of() {
	local pid started
	read -r pid started 2>/dev/null <"$STATE/pids/$1" || return 1
	[[ -n $pid && $(start_time "$pid") == "$started" ]] || return 1
	echo "$pid"
}

alive() { pid_of "$1" >/dev/null; }

# Starts a component inside the namespace, in a session of its own, so that it outlives this shell.
start() {
	local name=$1 pid
	shift
	mkdir -p "$STATE/pids" "$STATE/log"
	setsid nsenter --net="$NETNS_FILE" -- "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null 9>&- &
	pid=$!
	echo "$pid $(start_time "$pid")" >"$STATE/pids/$name"
}

# Ends a component by its own id: first by asking, after some seconds by force.
stop() {
	local name=$1 pid
	if pid=$(pid_of "$name"); then
		kill -TERM "$pid" 2>/dev/null || true
		wait_until 10 not_alive "$name" || kill -KILL "$pid" 2>/dev/null || true
		wait_until 5 not_alive "$name" || say "$name (process $pid) does not end"
	fi
	rm -f "$STATE/pids/$name"
}

not_alive() { ! alive "$1"; }

# Says which component failed and shows the end of its log.
die_of() {
	local name=$1
	shift
	say "$name: $*; the end of its log:"
	tail -n 20 "$STATE/log/$name.log" >&2 || true
	die "$name failed; logs are in $STATE/log"
}
