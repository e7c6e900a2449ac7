# shellcheck shell=bash
# What the cluster needs from the host and must give back: packages, the network
# namespace, cgroups, kernel settings, mounts. Sourced by up and down.

# By command, not by package: a machine with another vendor's containerd keeps it.
install_packages() {
	local packages=()
	command -v containerd >/dev/null && command -v ctr >/dev/null || packages+=(containerd)
	command -v runc >/dev/null || packages+=(runc)
	command -v buildah >/dev/null || packages+=(buildah)
	command -v ip >/dev/null || packages+=(iproute2)
	command -v nsenter >/dev/null || packages+=(util-linux)
	command -v openssl >/dev/null || packages+=(openssl)
	command -v gcc >/dev/null || packages+=(gcc libc6-dev)
	cni_plugins >/dev/null || packages+=(containernetworking-plugins)
	[[ -e /etc/ssl/certs/ca-certificates.crt ]] || packages+=(ca-certificates)
	((${#packages[@]} == 0)) || "$CLUSTER_HACK/../debian.sh" "${packages[@]}"
}

# ---- network ---------------------------------------------------------------------

make_network() {
	[[ -e $NETNS_FILE ]] || ip netns add "$NETNS"
	ip -n "$NETNS" link set lo up
	if ! ip -n "$NETNS" link show cni0 >/dev/null 2>&1; then
		# With an address of its own: otherwise it takes the lowest of its ports, and when that pod goes, all others
		# send to an address that nobody has, for half a minute.
		ip -n "$NETNS" link add cni0 address 02:00:0a:58:00:01 type bridge
		ip -n "$NETNS" address add "$NODE_IP/${POD_NET#*/}" dev cni0
		ip -n "$NETNS" address add "$SERVICE_IP/32" dev cni0
		ip -n "$NETNS" link set cni0 up
		ip -n "$NETNS" route add default dev cni0
	fi
	in_netns sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# Ends what still runs inside the namespace (a Redis, a mail server, a forgotten
# test), except this shell and its ancestors, then deletes it.
remove_network() {
	[[ -e $NETNS_FILE ]] || return 0
	local pid guests
	guests=$(guests_of_network)
	for pid in $guests; do
		say "ending process $pid ($(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | cut -c1-60)): it still ran beside the cluster"
		kill -TERM "$pid" 2>/dev/null || true
	done
	wait_until 5 no_guests || for pid in $(guests_of_network); do kill -KILL "$pid" 2>/dev/null || true; done
	ip netns delete "$NETNS"
	# iproute2 mounts this folder on itself and never undoes it.
	if [[ -z $(ls -A /run/netns) ]]; then umount /run/netns 2>/dev/null || true; fi
}

guests_of_network() {
	local ancestors=" " pid=$$
	while ((pid > 1)); do
		ancestors+="$pid "
		pid=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null || echo 0)
	done
	for pid in $(ip netns pids "$NETNS"); do
		[[ $ancestors == *" $pid "* ]] || echo "$pid"
	done
}

no_guests() { [[ -z $(guests_of_network) ]]; }

# ---- cgroups ---------------------------------------------------------------------

# The mount point of each cgroup hierarchy: several with version 1, one with version 2, both kinds on some machines.
cgroup_hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts; }

make_cgroups() {
	local hierarchy controller file
	for hierarchy in $(cgroup_hierarchies); do
		if [[ -e $hierarchy/cgroup.controllers ]]; then
			for controller in $(<"$hierarchy/cgroup.controllers"); do
				echo "+$controller" >"$hierarchy/cgroup.subtree_control" 2>/dev/null || true
			done
		fi
		mkdir -p "$hierarchy/$CGROUP"
		# A cpuset of version 1 starts empty, and nothing may run in it.
		for file in cpuset.cpus cpuset.mems; do
			if [[ -e $hierarchy/$file ]]; then cat "$hierarchy/$file" >"$hierarchy/$CGROUP/$file"; fi
		done
	done
}

# Every process below our cgroup folder belongs to a pod.
pod_processes() {
	local hierarchy
	for hierarchy in $(cgroup_hierarchies); do
		[[ ! -d $hierarchy/$CGROUP ]] || find "$hierarchy/$CGROUP" -name cgroup.procs -exec cat {} +
	done 2>/dev/null | sort --numeric-sort --unique
}

no_pod_processes() { [[ -z $(pod_processes) ]]; }

remove_cgroups() {
	local hierarchy
	for hierarchy in $(cgroup_hierarchies); do
		[[ ! -d $hierarchy/$CGROUP ]] || find "$hierarchy/$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || true
		[[ ! -d $hierarchy/$CGROUP ]] || say "could not remove $hierarchy/$CGROUP"
	done
}

# ---- kernel settings that kubelet overwrites --------------------------------------

readonly KUBELET_SETTINGS=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes)

save_kernel_settings() {
	local setting
	[[ ! -e $STATE/kernel-settings ]] || return 0
	for setting in "${KUBELET_SETTINGS[@]}"; do
		[[ ! -e /proc/sys/$setting ]] || echo "$setting $(<"/proc/sys/$setting")"
	done >"$STATE/kernel-settings"
}

restore_kernel_settings() {
	local setting value
	[[ -e $STATE/kernel-settings ]] || return 0
	while read -r setting value; do
		[[ $(<"/proc/sys/$setting") == "$value" ]] || echo "$value" >"/proc/sys/$setting"
	done <"$STATE/kernel-settings"
}

# ---- containers ------------------------------------------------------------------

# The shims are children of nobody by now: known as ours by the socket in their arguments.
shims() {
	local dir
	for dir in /proc/[0-9]*; do
		if tr '\0' '\n' 2>/dev/null <"$dir/cmdline" | grep -qxF -- "$CONTAINERD_SOCKET" &&
			[[ $(readlink "$dir/exe") == *containerd-shim-runc-v2 ]]; then
			basename "$dir"
		fi
	done
}

no_shims() { [[ -z $(shims) ]]; }

# Ends what the deletion of the pods has left running, by process id.
end_leftover_containers() {
	local pid
	for pid in $(pod_processes); do kill -KILL "$pid" 2>/dev/null || true; done
	wait_until 5 no_pod_processes || say "processes of pods do not end: $(pod_processes | tr '\n' ' ')"
	for pid in $(shims); do kill -TERM "$pid" 2>/dev/null || true; done
	wait_until 3 no_shims || for pid in $(shims); do kill -KILL "$pid" 2>/dev/null || true; done
}

# ---- files -----------------------------------------------------------------------

# Everything mounted below the cluster's folder, the deepest first.
mounts_below() { awk -v dir="$STATE/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r; }

unmount_all() {
	local dir
	while read -r dir; do
		umount "$dir" 2>/dev/null || umount --lazy "$dir" || say "could not unmount $dir"
	done < <(mounts_below)
}

remove_files() {
	[[ -z $(mounts_below) ]] || die "not deleting $STATE: something is still mounted below it"
	remove_files_elsewhere
	rm -rf --one-file-system "$STATE"
}

# Some paths are fixed in the programs: log links by kubelet, results by the network
# plugins, sockets of shims that were killed. The folders go only when they are empty.
remove_files_elsewhere() {
	local file
	for file in /var/log/containers/*; do
		[[ $(readlink "$file") != "$STATE"/* ]] || rm -f "$file"
	done
	for file in "$STATE"/run/containerd/io.containerd.runtime.v2.task/*/*/address; do
		[[ ! -e $file ]] || rm -f "$(sed 's|^unix://||' "$file")"
	done
	rm -f "/var/lib/cni/results/$NETNS-"*
	file=/var/lib/kubelet/device-plugins/kubelet.sock
	grep -qF "$file" /proc/net/unix || rm -f "$file" # unless another kubelet of this machine listens on it
	for file in /var/log/containers /var/lib/cni/results /var/lib/kubelet/device-plugins /run/containerd/s \
		/usr/libexec/kubernetes/kubelet-plugins/volume/exec; do
		[[ ! -d $file ]] || rmdir --parents --ignore-fail-on-non-empty "$file"
	done
}
